"""What a finished training is worth: held-out predictions, their errors, and the network's speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from engine import metrics
from engine.fit import predict
from engine.manifest import replacing
from engine.models import AgeNet
from engine.samples import TrainingSet

Floats = NDArray[np.float32]

EVALUATION_NAME = "evaluation.parquet"
_SPEED_BATCH = 32


def evaluate(
    net: AgeNet, data: TrainingSet, folder: Path, split: str = "test", *, teacher: AgeNet | None = None
) -> dict[str, Any]:
    """Predict a split, write ``evaluation.parquet`` and return the errors with 95 % intervals by patient.

    With a ``teacher`` also how near the network's months are to its teacher's.
    """
    index = data.index_of(split)
    months_B, sd_B = predict(net, data, index)
    truth_B = data.months_N[index]
    table = pa.table(
        {
            "sop_instance_uid": data.uids_N[index].tolist(),
            "patient_key": data.patients_N[index].tolist(),
            "patient_sex": data.patient_sex_N[index].tolist(),
            "truth_months": pa.array(truth_B, pa.float32()),
            "predicted_months": pa.array(months_B, pa.float32()),
            "sd_months": pa.array(sd_B, pa.float32()),
        }
    )
    with replacing(folder / EVALUATION_NAME) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    interval = metrics.bootstrap_by_patient(
        months_B - truth_B, data.patients_N[index], statistic=metrics.MEAN_ABSOLUTE
    )
    facts = {
        "split": split,
        "instances": len(index),
        "mae_months": metrics.mae(months_B, truth_B),
        "mae_low": interval.low,
        "mae_high": interval.high,
        "rmse_months": metrics.rmse(months_B, truth_B),
        "mean_predictor_mae": float(np.abs(truth_B - data.months_N[data.index_of("train")].mean()).mean()),
        "subgroups": [
            _subgroup(name, months_B[chosen_B] - truth_B[chosen_B], data.patients_N[index][chosen_B])
            for name, chosen_B in _groups(data.patient_sex_N[index], truth_B)
            if chosen_B.any()
        ],
    }
    return {**facts, "fidelity": _fidelity(months_B, predict(teacher, data, index)[0])} if teacher else facts


def gigaflops(net: AgeNet, size_HW: tuple[int, int]) -> float:
    """Floating-point operations of one image / 1e9; a multiply-accumulate counts as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 1, *size_HW), torch.zeros(1, 1))
    return float(counter.get_total_flops()) / 1e9


def images_per_second(net: AgeNet, size_HW: tuple[int, int], *, seconds: float = 3.0) -> float:
    """Eager float32 images per second of a network in this process, batches of 32."""
    image = torch.rand(_SPEED_BATCH, 1, *size_HW)
    sex = torch.zeros(_SPEED_BATCH, 1)
    with torch.inference_mode():
        net.eval()(image, sex)
        started, batches = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            net(image, sex)
            batches += 1
    return batches * _SPEED_BATCH / (time.perf_counter() - started)


def _groups(sex_B: NDArray[Any], truth_B: Floats) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and members [B] of each group by sex and by band of true age."""
    for code, name in (("F", "female"), ("M", "male")):
        yield name, sex_B == code
    for low, high in pairwise((*metrics.AGE_EDGES_YEARS, np.inf)):
        name = f"{low} to under {high} years" if np.isfinite(high) else f"{low} years and over"
        yield name, (truth_B >= 12 * low) & (truth_B < 12 * high)


def _fidelity(student_B: Floats, teacher_B: Floats) -> dict[str, float]:
    """Networks of equal error may disagree on most patients; this says if one can stand in for the other."""
    apart_B = np.abs(student_B - teacher_B)
    return {"mae_months": float(apart_B.mean()), "p95_months": float(np.percentile(apart_B, 95))}


def _subgroup(name: str, errors_G: Floats, patients_G: NDArray[Any]) -> dict[str, Any]:
    interval = metrics.bootstrap_by_patient(errors_G, patients_G, statistic=metrics.MEAN_ABSOLUTE)
    return {
        "group": name,
        "instances": len(errors_G),
        "mae_months": float(np.abs(errors_G).mean()),
        "mae_low": interval.low if interval.is_known else None,
        "mae_high": interval.high if interval.is_known else None,
    }
