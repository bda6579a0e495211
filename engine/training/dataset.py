"""An ingest folder as a training set: columns in memory, images in one memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import TrainingError
from engine.ingest import covariates
from engine.ingest.covariates import Covariate
from engine.ingest.samples_folder import batches, covariate_columns, numbers
from engine.store import ledger
from engine.store.labels import Label
from engine.store.schema import tensor_values
from engine.training.folds import folds_of
from engine.training.learning import Learnable
from engine.training.recipe import Inputs, Split

SPLITS = ("train", "val", "test")
_VAL_PERCENT, _TEST_PERCENT = 10, 15
_IMAGES_NAME = "images.u8"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Labelled samples: arrays over N, Q covariate columns; ``images_NVHW`` is uint8, mapped from disk."""

    images_NVHW: NDArray[np.uint8]
    to_network_N33: NDArray[np.float64]
    """Original pixel -> pixel of the (first) view."""
    covariates_NQ: NDArray[np.float32]
    covariates: tuple[Covariate, ...]
    """What the Q columns are made of."""
    targets: Mapping[str, NDArray[np.float32]]
    """What training aims at, by column, see ``Learning.targets``; NaN where there is none."""
    truth: Mapping[str, NDArray[np.float32]]
    """What predictions are judged against, by label column; NaN where there is none."""
    patients_N: NDArray[Any]
    uids_N: NDArray[Any]
    patient_sex_N: NDArray[Any]
    age_months_N: NDArray[np.float32]
    """Chronological age in months; NaN where it is not known."""
    splits_N: NDArray[Any]

    def index_of(self, split: str) -> NDArray[np.int64]:
        """Places of one split, ascending."""
        return np.flatnonzero(self.splits_N == split)


def pack_images(folder: Path, cache: Path, labels: Sequence[Label]) -> None:
    """Write the images of all labelled samples to one raw file in ``cache``, in shard order.

    Raises:
        TrainingError: the folder was ingested without labels.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / _IMAGES_NAME).open("wb") as stream:
        for table in _labelled(folder, ["image"], labels):
            stream.write(tensor_values(table["image"]).tobytes())


_ALL, _NO_FOLDS = Inputs(), Split()


def open_training_set(
    folder: Path, cache: Path, task: Learnable, inputs: Inputs = _ALL, split: Split = _NO_FOLDS
) -> TrainingSet:
    """The task's columns of all labelled samples, and the images packed by ``pack_images``.

    With folds, all that is not held out for test is divided into them. A sample without a label of ``inputs``
    is in no split.

    Raises:
        TrainingError: no sample has a label, a label is no number, a split that training needs is empty, or a
            patient is on both sides.
    """
    names = ["sop_instance_uid", "patient_key", "patient_sex", "split", "original_to_network", "age_months"]
    tables = list(_labelled(folder, [*names, *covariates.sources(task.covariates)], task.labels))
    count = sum(table.num_rows for table in tables)
    if count == 0:
        raise TrainingError(f"{folder} has no labelled sample: ingest with --labels")
    table = pa.concat_tables(tables)
    to_network_N9 = np.array(table["original_to_network"].to_pylist(), np.float64)[:, :9]
    to_network_N33 = to_network_N9.reshape(-1, 3, 3)
    truth = truth_on_view(folder, table, task.labels, to_network_N33)
    sexes = np.array([sex or "" for sex in table["patient_sex"].to_pylist()])
    patients = np.array(table["patient_key"].to_pylist())
    splits = splits_by_patient(patients, table["split"].to_pylist())
    learning = task.learning()
    aims = learning.targets(truth, splits == "test", inputs.labels)
    if split.folds:
        chosen = (splits != "test") & aims.is_labelled_N
        strata = learning.stratum({name: values[chosen] for name, values in aims.columns.items()})
        of = folds_of(patients[chosen], strata, sexes[chosen], folds=split.folds)
        splits[chosen] = np.where(of == split.fold, "val", "train")
    splits[~aims.is_labelled_N] = ""
    for name in SPLITS:
        if not (splits == name).any():
            raise TrainingError(f"the {name} split is empty: more patients are needed")
    return TrainingSet(
        images_NVHW=_images(folder, cache, count, is_hidden=inputs.hide_image),
        to_network_N33=to_network_N33,
        covariates_NQ=covariate_columns(table, task.covariates),
        covariates=tuple(task.covariates),
        targets=aims.columns,
        truth=_judged(table, task.labels, aims.columns),
        patients_N=patients,
        uids_N=np.array(table["sop_instance_uid"].to_pylist()),
        patient_sex_N=sexes,
        age_months_N=numbers(table, "age_months"),
        splits_N=splits,
    )


def _judged(
    table: pa.Table, labels: Sequence[Label], targets: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What predictions are judged against: targets of a label's name; points and boxes in original pixels."""
    return {
        name: targets[name] if name in targets and label.kind in ("number", "class") else numbers(table, name)
        for label in labels
        for name in label.columns
    }


def _images(folder: Path, cache: Path, count: int, *, is_hidden: bool) -> NDArray[np.uint8]:
    """The packed images [N, V, H, W], or as many times the same noise.

    Not black: a batch norm over images without any variance learns what does not hold in evaluation.
    """
    image = pq.read_schema(ledger.tables_of(folder, "samples")[0]).field("image")
    one_VHW = (1, *image.type.shape)[-3:]
    if is_hidden:
        noise_VHW = np.random.default_rng(0).integers(0, 256, one_VHW, np.uint8)
        return np.broadcast_to(noise_VHW, (count, *one_VHW))
    return np.memmap(cache / _IMAGES_NAME, np.uint8, "r", shape=(count, *one_VHW))


def truth_on_view(
    folder: Path, table: pa.Table, labels: Sequence[Label], to_network_N33: NDArray[np.float64]
) -> dict[str, NDArray[np.float32]]:
    """Label columns [N], NaN where there is none; points and boxes are in pixels of the view.

    Raises:
        TrainingError: a label is no finite number.
    """
    truth: dict[str, NDArray[np.float32]] = {}
    for label in labels:
        stated = [table[name].drop_null().to_numpy() for name in label.columns if name in table.column_names]
        if not all(np.isfinite(values).all() for values in stated):
            raise TrainingError(f"{folder} has labels that are no finite numbers: mend the label table")
        columns = {name: numbers(table, name) for name in label.columns}
        if label.kind in ("point", "box"):
            # corner by corner: a point has one, a box two; of a turned box the upright one around it
            points_NP2 = np.stack(list(columns.values()), axis=1).reshape(len(table), -1, 2)
            if label.kind == "box":
                points_NP2 = points_NP2[:, [[0, 0], [1, 0], [1, 1], [0, 1]], [0, 1]]
            moved_NP2 = points_NP2 @ to_network_N33[:, :2, :2].swapaxes(1, 2) + to_network_N33[:, None, :2, 2]
            low_N2, high_N2 = moved_NP2.min(axis=1), moved_NP2.max(axis=1)
            ends_NX = low_N2 if label.kind == "point" else np.concatenate([low_N2, high_N2], axis=1)
            columns = dict(zip(columns, ends_NX.T.astype(np.float32), strict=True))
        truth |= columns
    return truth


def require_no_duplicates_across_splits(data: TrainingSet) -> None:
    """Refuse a set where the same pixels lie in two splits, under whatever name; reads every image once.

    Flat images say nothing and are passed over.

    Raises:
        TrainingError: an image of one split is in another.
    """
    split_of: dict[bytes, str] = {}
    duplicates = 0
    for image_VHW, split in zip(data.images_NVHW, data.splits_N.tolist(), strict=True):
        if image_VHW.min() < image_VHW.max():
            digest = hashlib.blake2b(image_VHW.tobytes(), digest_size=_DIGEST_BYTES).digest()
            duplicates += split_of.setdefault(digest, split) != split
    if duplicates:
        raise TrainingError(
            f"{duplicates} image(s) lie in two splits, pixel for pixel: the held-out error would be a lie; "
            "mend the label table's split, or remove the copies from the archive"
        )


def splits_by_patient(patients_N: NDArray[Any], given: list[str | None]) -> NDArray[Any]:
    """Split of each sample. The label table's ``test`` and ``val`` are kept.

    Where it has no ``val``, a hash of the patient takes that out of the rest; without a split, all three.

    Raises:
        TrainingError: one patient is in two splits, or a split is none of ``train``, ``val`` and ``test``.
    """
    unknown = {split for split in given if split} - set(SPLITS)
    if unknown:
        raise TrainingError(f"the label table has the split '{min(unknown)}': known are {', '.join(SPLITS)}")
    splits = np.array(
        [
            (split or "train") if "val" in given else _split(key, split, has_given=any(given))
            for key, split in zip(patients_N, given, strict=True)
        ]
    )
    held = [set(patients_N[splits == name]) for name in SPLITS]
    if leaked := sum(map(len, held)) - len(set().union(*held)):
        raise TrainingError(f"{leaked} patient(s) are in two splits: mend the label table's split")
    return splits


def _labelled(folder: Path, columns: list[str], labels: Sequence[Label]) -> Iterator[pa.Table]:
    """Columns and labels of each shard's valid samples with any label.

    Raises:
        TrainingError: a required label has no column.
    """
    names = [name for label in labels for name in label.columns]
    for table in batches(folder, [*columns, *names]):
        for label in labels:
            if label.required and not set(label.columns) <= set(table.column_names):
                raise TrainingError(f"{folder} has no column {label.columns[0]}: ingest with --labels")
        held = [table[name].is_valid() for name in names if name in table.column_names]
        yield table.filter(reduce(pc.or_, held))


def _split(patient: str, given: str | None, *, has_given: bool) -> str:
    place = int(patient[:8], 16) % 100
    if has_given:
        return "test" if given == "test" else ("val" if place < _VAL_PERCENT else "train")
    if place < _TEST_PERCENT:
        return "test"
    return "val" if place < _TEST_PERCENT + _VAL_PERCENT else "train"
