"""What a finished training is worth: held-out predictions, their errors, and the network's speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from engine import metrics
from engine.fit import predict
from engine.manifest import replacing
from engine.models import AgeNet
from engine.samples import TrainingSet

EVALUATION_NAME = "evaluation.parquet"
_SPEED_BATCH = 32


def evaluate(net: AgeNet, data: TrainingSet, folder: Path, split: str = "test") -> dict[str, Any]:
    """Predict a split, write ``evaluation.parquet`` and return the errors with 95 % intervals by patient."""
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
    return {
        "split": split,
        "instances": len(index),
        "mae_months": metrics.mae(months_B, truth_B),
        "mae_low": interval.low,
        "mae_high": interval.high,
        "rmse_months": metrics.rmse(months_B, truth_B),
        "mean_predictor_mae": float(np.abs(truth_B - data.months_N[data.index_of("train")].mean()).mean()),
    }


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
