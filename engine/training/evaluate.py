"""What a finished training is worth: held-out predictions, their errors and calibration, and its speed.

Legend: N instances, K monthly bins, V views, h, w attention grid.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from engine.distillation.teacher_cache import TeacherCache
from engine.errors import TableError
from engine.evaluation.comparison import aligned
from engine.evaluation.held_out import HeldOut, held_out_table, write_held_out
from engine.evaluation.metrics import known
from engine.models.network import Network, example_inputs
from engine.models.ordered_bins import moments
from engine.store.files import replacing
from engine.store.schema import tensor_column
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH, accuracy, errors, mean_error
from engine.tasks.ages.calibration import coverage, fit_calibration, negative_log_likelihood, tempered_sd
from engine.tasks.ages.controls import control_facts
from engine.tasks.ages.inputs import PSEUDO_COLUMNS
from engine.tasks.ages.learning import Deployed, kept
from engine.training.dataset import TrainingSet
from engine.training.forward import outputs
from engine.training.run_folder import CASES_NAME, EVALUATION_NAME, VALIDATION_NAME

_SPEED_BATCH = 32
NUM_SPREAD, NUM_WORST = 8, 4
"""Cases kept as pictures: evenly over the true ages, and of the largest errors."""
DEPARTS_MONTHS = 12


def evaluate(
    net: Network, data: TrainingSet, folder: Path, *, teacher: HeldOut | None = None
) -> dict[str, dict[str, Any]]:
    """Calibrate on the validation split, judge on the test split; facts ``evaluation`` and ``calibration``.

    Writes the predictions of both splits, and some test cases with image and attention map. ``teacher`` is
    what the teacher predicts for its own test split: it adds how near the network is to it.
    """
    validation, val_logits_NK = predicted(net, data, data.index_of("val"), temperature=1.0)
    calibration = fit_calibration(validation, val_logits_NK)
    sharp_N = tempered_sd(val_logits_NK, calibration.temperature).astype(np.float32)
    validation = replace(validation, predicted={**validation.predicted, SD: sharp_N})
    index_N = data.index_of("test")
    tested, logits_NK = predicted(net, data, index_N, temperature=calibration.temperature)
    write_held_out(validation, folder / VALIDATION_NAME)
    write_held_out(tested, folder / EVALUATION_NAME)
    write_cases(net, data, tested, index_N, folder / CASES_NAME)
    nowhere_N = np.full(len(data.uids_N), np.nan, np.float32)
    pseudo_N = data.truth.get(PSEUDO_COLUMNS[0], nowhere_N)[index_N]
    train_mean = data.truth[TRUTH][data.index_of("train")].mean()
    facts = {
        "split": "test",
        **accuracy(tested),
        **control_facts(tested, data.age_months_N[index_N], pseudo_N),
        "mean_predictor_mae": float(np.abs(tested.truth[TRUTH] - train_mean).mean()),
        "coverage": coverage(tested, calibration),
        "negative_log_likelihood": known(
            negative_log_likelihood(logits_NK, tested.truth[TRUTH], calibration.temperature)
        ),
        "negative_log_likelihood_untempered": known(
            negative_log_likelihood(logits_NK, tested.truth[TRUTH], 1.0)
        ),
        "mean_sd_months": float(tested.predicted[SD].mean()),
        "mean_sd_untempered": float(tempered_sd(logits_NK, 1.0).mean()),
        "against_pseudo_labels": _against_pseudo(tested, pseudo_N),
        "departing": _departing(tested, data.age_months_N[index_N]),
    }
    if teacher:
        facts["fidelity"] = _fidelity(tested, teacher)
    return {"evaluation": facts, "calibration": calibration.facts()}


def predicted(
    net: Network, data: TrainingSet, index_N: NDArray[np.int64], *, temperature: float
) -> tuple[HeldOut, NDArray[np.float32]]:
    """Predictions for some samples, sd at a temperature, and the logits [N, K] behind them."""
    logits_NK = outputs(net, data.images_NVHW[index_N], data.covariates_NQ[index_N], kept)["logits"]
    months_N = moments(torch.from_numpy(logits_NK))[0].numpy()
    sd_N = tempered_sd(logits_NK, temperature).astype(np.float32)
    return _held_out(data, index_N, months_N, sd_N), logits_NK


def _held_out(
    data: TrainingSet, index_N: NDArray[np.int64], months_N: NDArray[Any], sd_N: NDArray[Any]
) -> HeldOut:
    return HeldOut(
        uids_N=data.uids_N[index_N],
        patients_N=data.patients_N[index_N],
        sexes_N=data.patient_sex_N[index_N],
        age_months_N=data.age_months_N[index_N],
        truth={TRUTH: data.truth[TRUTH][index_N]},
        predicted={PREDICTED: months_N, SD: sd_N},
    )


def recorded_months(cache: TeacherCache, data: TrainingSet, index_N: NDArray[np.int64]) -> HeldOut:
    """What a recorded teacher predicts for some samples.

    Raises:
        TeacherCacheError: one of them is not in the cache.
    """
    mean_N, sd_N = recorded_moments(cache, data.uids_N[index_N].tolist())
    return _held_out(data, index_N, mean_N, sd_N)


def recorded_moments(
    cache: TeacherCache, uids: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means [N] and standard deviations [N], months, of what a teacher recorded of these instances.

    Raises:
        TeacherCacheError: one of them is not in the cache.
    """
    mean_N, sd_N = moments(torch.from_numpy(cache.read("logits", cache.places(uids))))
    return mean_N.numpy(), sd_N.numpy()


def write_cases(
    net: Network, data: TrainingSet, tested: HeldOut, index_N: NDArray[np.int64], path: Path
) -> None:
    """Write some test cases for the report: predictions, the image as the network saw it, and its attention.

    First NUM_SPREAD evenly over the true ages, then the NUM_WORST largest errors among the others. Views that
    go through the trunk one by one stand side by side, as their maps do; of stacked ones the first is kept.
    """
    rows = _case_rows(tested)
    inputs = torch.from_numpy(data.images_NVHW[index_N[rows]]).float() / 255
    told = torch.from_numpy(data.covariates_NQ[index_N[rows]])
    with torch.inference_mode():
        attention_Nhw = Deployed(net).eval()(inputs, told)[2].numpy()
    images_NVHW = data.images_NVHW[index_N[rows]]
    shown_NHW = np.concatenate(images_NVHW.swapaxes(0, 1), axis=2) if net.is_late else images_NVHW[:, 0]
    table = held_out_table(tested.chosen(rows))
    table = table.append_column("image", tensor_column(shown_NHW))
    maps_Nhw = np.rint(255 * attention_Nhw).astype(np.uint8)
    table = table.append_column("attention_map", tensor_column(maps_Nhw))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def gigaflops(net: Network, size_HW: tuple[int, int]) -> float:
    """Floating-point operations of one image / 1e9; a multiply-accumulate counts as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.eval()(*example_inputs(net.facts, 1, size_HW))
    return float(counter.get_total_flops()) / 1e9


def images_per_second(net: Network, size_HW: tuple[int, int], *, seconds: float = 3.0) -> float:
    """Eager float32 images per second of a network in this process, batches of 32."""
    inputs = example_inputs(net.facts, _SPEED_BATCH, size_HW)
    with torch.inference_mode():
        net.eval()(*inputs)
        started, batches = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            net(*inputs)
            batches += 1
    return batches * _SPEED_BATCH / (time.perf_counter() - started)


def _case_rows(tested: HeldOut) -> NDArray[np.int64]:
    by_age_N = np.argsort(tested.truth[TRUTH], kind="stable")
    places = np.linspace(0, len(by_age_N) - 1, min(NUM_SPREAD, len(by_age_N))).round().astype(np.int64)
    spread = by_age_N[places]
    by_error_N = np.argsort(-np.abs(errors(tested)), kind="stable")
    worst = by_error_N[~np.isin(by_error_N, spread)][:NUM_WORST]
    return np.concatenate([spread, worst])


def _against_pseudo(tested: HeldOut, pseudo_N: NDArray[np.float32]) -> dict[str, Any] | None:
    """MAE with the pseudo-label as truth, where there is one: a student may copy its teacher's error."""
    has_N = np.isfinite(pseudo_N)
    if not has_N.any():
        return None
    aimed = replace(tested.chosen(has_N), truth={TRUTH: pseudo_N[has_N]})
    return {"instances": int(has_N.sum()), **mean_error(aimed)}


def _departing(tested: HeldOut, age_N: NDArray[np.float32]) -> dict[str, Any] | None:
    """MAE where bone age departs from chronological age by over DEPARTS_MONTHS: no shortcut helps there."""
    departs_N = np.abs(tested.truth[TRUTH] - age_N) > DEPARTS_MONTHS
    if not departs_N.any():
        return None
    return {"instances": int(departs_N.sum()), **mean_error(tested.chosen(departs_N))}


def _fidelity(student: HeldOut, teacher: HeldOut) -> dict[str, Any] | None:
    """Networks of equal error may disagree on most patients; this says if one can stand in for the other."""
    try:
        own, taught = aligned([student, teacher])
    except TableError:  # the teacher was trained on other data
        return None
    apart_N = np.abs(own.predicted[PREDICTED] - taught.predicted[PREDICTED])
    return {
        "instances": len(apart_N),
        "mae_months": float(apart_N.mean()),
        "p95_months": float(np.percentile(apart_N, 95)),
    }
