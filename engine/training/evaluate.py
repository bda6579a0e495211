"""What a finished training is worth: held-out predictions, their figures and calibration, and its speed.

Legend: N instances, V views, h, w attention grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from engine.distillation.teacher_cache import TeacherCache
from engine.errors import TableError
from engine.evaluation.answer import TRAINING_MEANS, Answer, Facts, Raw, Row
from engine.evaluation.comparison import aligned, distance
from engine.evaluation.held_out import HeldOut, held_out_table, write_held_out
from engine.models.network import Network, Outputs, example_inputs
from engine.store.files import replacing
from engine.store.schema import tensor_column
from engine.training.dataset import TrainingSet
from engine.training.forward import outputs, per_second
from engine.training.learning import Learning
from engine.training.run_folder import CASES_NAME, EVALUATION_NAME, VALIDATION_NAME

_SPEED_BATCH = 32
NUM_SPREAD, NUM_WORST = 8, 4
"""Cases kept as pictures: evenly over the true values, and of the largest errors."""


def evaluate(
    net: Network,
    data: TrainingSet,
    folder: Path,
    *,
    answer: Answer,
    learning: Learning,
    teacher: HeldOut | None = None,
) -> dict[str, dict[str, Any]]:
    """Calibrate on the validation split, judge on the test split; facts ``evaluation`` and ``calibration``.

    Writes the predictions of both splits, and some test cases with image and attention map. ``teacher`` is
    what the teacher predicts for its own test split, or its ``raw`` alone for the test split of ``data``: it
    adds how near the network is to it.
    """
    index_N = {split: data.index_of(split) for split in ("val", "test")}
    validation, tested = (_kept(net, data, index_N[split], learning) for split in ("val", "test"))
    calibration = {**learning.calibrate(validation), TRAINING_MEANS: _training_means(data)}
    test_samples = _samples(data, index_N["test"])
    validation = answered(validation, answer, learning, calibration, _samples(data, index_N["val"]))
    tested = answered(tested, answer, learning, calibration, test_samples)
    write_held_out(validation, folder / VALIDATION_NAME)
    write_held_out(tested, folder / EVALUATION_NAME)
    graph = learning.deployed(net, calibration)
    write_cases(net, graph, data, tested, answer, folder / CASES_NAME)
    if teacher and not teacher.predicted:
        teacher = answered(teacher, answer, learning, calibration, test_samples)
    evaluation = {
        "split": "test",
        "instances": len(tested.uids_N),
        "patients": len(set(tested.patients_N.tolist())),
        "figures": answer.figures(tested, calibration).facts(),
        "fidelity": _fidelity(answer, tested, teacher) if teacher else None,
    }
    return {"evaluation": evaluation, "calibration": calibration}


def answered(
    held: HeldOut, answer: Answer, learning: Learning, calibration: Facts, samples: Sequence[Row] = ()
) -> HeldOut:
    """The same with the answer's columns, made of ``raw``; null is NaN in a column of numbers.

    ``samples`` are the rows of the samples folder that the answer may need, in the order of ``held``.
    """
    said = answer.rows(learning.graph_outputs(held.raw, calibration), samples, calibration)
    predicted = {
        column.name: pa.array(said[column.name], column.type).to_numpy(zero_copy_only=False)
        for column in answer.columns
    }
    return replace(held, predicted=predicted)


def recorded(cache: TeacherCache, uids: Sequence[str], learning: Learning) -> Raw:
    """What a recorded teacher gave for some instances, as an evaluation keeps it.

    Raises:
        TeacherCacheError: one of them is not in the cache.
    """
    logits_NK = torch.from_numpy(cache.read("logits", cache.places(uids)))
    kept = learning.kept(Outputs(logits_NK, None, ()))
    return {name: values.numpy() for name, values in kept.items()}


def recorded_test_split(cache: TeacherCache, data: TrainingSet, learning: Learning) -> HeldOut:
    """A recorded teacher on the test split: its ``raw``, and no prediction yet.

    Raises:
        TeacherCacheError: an instance is not in the cache.
    """
    index_N = data.index_of("test")
    return _held_out(data, index_N, recorded(cache, data.uids_N[index_N].tolist(), learning))


def write_cases(
    net: Network, graph: torch.nn.Module, data: TrainingSet, tested: HeldOut, answer: Answer, path: Path
) -> None:
    """Write some test cases for the report: predictions, the image as the network saw it, and its attention.

    First NUM_SPREAD evenly over the first label, then the NUM_WORST largest errors among the others. Views
    that go through the trunk one by one stand side by side, as their maps do; of stacked ones the first is
    kept. ``graph`` is what is exported of ``net``; without an attention map there is no such column.
    """
    rows = _case_rows(tested, answer)
    index_N = data.index_of("test")[rows]
    images_NVHW = data.images_NVHW[index_N]
    inputs = torch.from_numpy(images_NVHW).float() / 255
    with torch.inference_mode():
        given = graph.eval()(inputs, torch.from_numpy(data.covariates_NQ[index_N]))
    attention_Nhw = given[len(answer.outputs)].numpy() if len(given) > len(answer.outputs) + 1 else None
    table = held_out_table(tested.chosen(rows))
    shown_NHW = np.concatenate(images_NVHW.swapaxes(0, 1), axis=2) if net.is_late else images_NVHW[:, 0]
    table = table.append_column("image", tensor_column(shown_NHW))
    if attention_Nhw is not None:
        maps_Nhw = np.rint(255 * attention_Nhw).astype(np.uint8)
        table = table.append_column("attention_map", tensor_column(maps_Nhw))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def gigaflops(net: Network, size_HW: tuple[int, int]) -> float:
    """Floating-point operations of one image / 1e9; a multiply-accumulate counts as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.eval()(*example_inputs(net.facts, 1, size_HW))
    return float(counter.get_total_flops()) / 1e9


def images_per_second(net: Network, size_HW: tuple[int, int]) -> float:
    """Eager float32 images per second of a network in this process, batches of 32."""
    inputs = example_inputs(net.facts, _SPEED_BATCH, size_HW)
    net.eval()
    with torch.inference_mode():
        return _SPEED_BATCH * per_second(lambda: net(*inputs))


def _kept(net: Network, data: TrainingSet, index_N: NDArray[np.int64], learning: Learning) -> HeldOut:
    raw = outputs(net, data.images_NVHW[index_N], data.covariates_NQ[index_N], learning.kept)
    return _held_out(data, index_N, raw)


def _held_out(data: TrainingSet, index_N: NDArray[np.int64], raw: Raw) -> HeldOut:
    return HeldOut(
        uids_N=data.uids_N[index_N],
        patients_N=data.patients_N[index_N],
        sexes_N=data.patient_sex_N[index_N],
        age_months_N=data.age_months_N[index_N],
        truth={name: values[index_N] for name, values in data.truth.items()},
        predicted={},
        raw=raw,
    )


def _samples(data: TrainingSet, index_N: NDArray[np.int64]) -> list[Row]:
    """Header columns and geometry of some samples."""
    return [
        {
            "sop_instance_uid": uid,
            "patient_sex": sex or None,
            "age_months": float(age),
            "original_to_network": to_network_33.ravel().tolist(),
        }
        for uid, sex, age, to_network_33 in zip(
            data.uids_N[index_N].tolist(), data.patient_sex_N[index_N].tolist(), data.age_months_N[index_N],
            data.to_network_N33[index_N], strict=True,
        )
    ]  # fmt: skip


def _training_means(data: TrainingSet) -> dict[str, float]:
    """Mean of each label over the training split; labels that nobody has there are left out."""
    train_N = data.index_of("train")
    known = {name: values[train_N][np.isfinite(values[train_N])] for name, values in data.truth.items()}
    return {name: float(values.mean()) for name, values in known.items() if len(values)}


def _case_rows(tested: HeldOut, answer: Answer) -> NDArray[np.int64]:
    by_truth_N = np.argsort(next(iter(tested.truth.values())), kind="stable")
    places = np.linspace(0, len(by_truth_N) - 1, min(NUM_SPREAD, len(by_truth_N))).round().astype(np.int64)
    spread = by_truth_N[places]
    by_error_N = np.argsort(-answer.error(tested), kind="stable")
    worst = by_error_N[~np.isin(by_error_N, spread)][:NUM_WORST]
    return np.concatenate([spread, worst])


def _fidelity(answer: Answer, student: HeldOut, teacher: HeldOut) -> dict[str, Any] | None:
    """Networks of equal error may disagree on most patients; this says if one can stand in for the other."""
    try:
        own, taught = aligned([student, teacher])
    except TableError:  # the teacher was trained on other data
        return None
    return distance(answer, own, taught)
