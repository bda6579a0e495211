"""An ingest folder as a training set: columns in memory, images in one memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import TableError, TrainingError
from engine.ingest import covariates
from engine.store import ledger
from engine.store.files import read_json, sha256_of_facts, sha256_of_file
from engine.store.labels import Label
from engine.store.schema import tensor_values
from engine.tasks.ages.inputs import BONE_AGE, PSEUDO_COLUMNS
from engine.tasks.ages.pseudo_labels import Labels, targets
from engine.tasks.task import Task
from engine.training.folds import folds_of

SPLITS = ("train", "val", "test")
_VAL_PERCENT, _TEST_PERCENT = 10, 15
_IMAGES_NAME = "images.u8"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Samples with a label: arrays over N, Q covariates; ``images_NVHW`` is uint8, mapped from disk."""

    images_NVHW: NDArray[np.uint8]
    to_network_N33: NDArray[np.float64]
    """Original pixel -> pixel of the (first) view."""
    months_N: NDArray[np.float32]
    covariates_NQ: NDArray[np.float32]
    patients_N: NDArray[Any]
    uids_N: NDArray[Any]
    patient_sex_N: NDArray[Any]
    age_N: NDArray[np.float32]
    """Chronological age in months; NaN where it is not known."""
    pseudo_N2: NDArray[np.float32]
    """Mean and sd of pseudo-labels in months; NaN where there is none."""
    is_expert_N: NDArray[np.bool_]
    """Whether the months are an expert's; elsewhere they are the mean of a pseudo-label."""
    labels: Labels = "truth"
    splits_N: NDArray[Any]

    def index_of(self, split: str) -> NDArray[np.int64]:
        """Places of one split, ascending."""
        return np.flatnonzero(self.splits_N == split)


def data_facts(folder: Path) -> dict[str, Any]:
    """Counts and digest of an ingest folder, for the record of a run.

    Raises:
        TableError: the folder is no finished ingest.
    """
    manifest = read_json(folder / "manifest.json")
    if manifest.get("kind") != "ingest" or not manifest.get("complete"):
        raise TableError(f"{folder} is no finished ingest: run `osteoray ingest` again to complete it")
    digests = [
        read_json(path.parent / "shard.json")["sha256"] for path in ledger.tables_of(folder, "samples")
    ]
    shown: dict[str, Any] = {name: manifest[name] for name in ("crop", "views") if name in manifest}
    return {
        "counts": manifest["counts"],
        "rule": manifest["task"]["rule"],
        **shown,
        "sha256": sha256_of_facts(digests),
        "plan_sha256": sha256_of_file(folder / ledger.PLAN_NAME),
    }


def pack_images(folder: Path, cache: Path, labels: Sequence[Label]) -> None:
    """Write the images of all labelled samples to one raw file in ``cache``, in shard order.

    Raises:
        TrainingError: the folder was ingested without labels.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / _IMAGES_NAME).open("wb") as stream:
        for table in _labelled(folder, ["image"], labels):
            stream.write(tensor_values(table["image"]).tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a training uses its samples.

    With ``folds``, all that is not held out for test is divided into them; ``fold`` is the validation split.
    ``labels`` says what is learnt from. With ``hide_image`` every image is the same noise: the control
    that shows what the covariates know alone.
    """

    folds: int = 0
    fold: int = 0
    labels: Labels = "truth"
    hide_image: bool = False


def choice_of(recipe: Mapping[str, Any]) -> Choice:
    """The Choice in the facts of a recipe."""
    return Choice(**{field.name: recipe[field.name] for field in fields(Choice)})


_ALL = Choice()


def open_training_set(folder: Path, cache: Path, task: Task, choice: Choice = _ALL) -> TrainingSet:
    """The task's columns of all labelled samples, and the images packed by ``pack_images``.

    A sample without a label that the choice learns from is in no split.

    Raises:
        TrainingError: no sample has a label, a label is no number, a split that training needs is empty, or a
            patient is on both sides.
    """
    names = ["sop_instance_uid", "patient_key", "patient_sex", "split", "original_to_network"]
    names += ["age_months", *covariates.sources(task.covariates)]
    parts = list(_labelled(folder, list(dict.fromkeys(names)), task.labels))
    count = sum(part.num_rows for part in parts)
    if count == 0:
        raise TrainingError(f"{folder} has no labelled sample: ingest with --labels")
    table = pa.concat_tables(parts)
    values = [table[name].drop_null().to_numpy() for name in task.label_columns if name in table.column_names]
    if not all(np.isfinite(column).all() for column in values):
        raise TrainingError(f"{folder} has labels that are no finite numbers: mend the label table")
    manifest = read_json(folder / "manifest.json")
    shape = (count, len(manifest.get("views", [None])), *manifest["task"]["rule"]["view"]["size_HW"])
    images: NDArray[np.uint8] = np.memmap(cache / _IMAGES_NAME, np.uint8, "r", shape=shape)
    if choice.hide_image:
        images = np.broadcast_to(_noise(shape[1:]), shape)
    patient_sex = table["patient_sex"].to_pylist()
    patients = np.array(table["patient_key"].to_pylist())
    splits = splits_by_patient(patients, table["split"].to_pylist())
    pseudo = np.stack([_floats(table, name) for name in PSEUDO_COLUMNS], axis=1)
    aims = targets(_floats(table, BONE_AGE.name), pseudo, splits == "test", choice.labels)
    if choice.folds:
        chosen = (splits != "test") & aims.is_labelled_N
        sexes = np.array(patient_sex)[chosen]
        of = folds_of(patients[chosen], aims.months_N[chosen], sexes, folds=choice.folds)
        splits[chosen] = np.where(of == choice.fold, "val", "train")
    splits[~aims.is_labelled_N] = ""
    for split in SPLITS:
        if not (splits == split).any():
            raise TrainingError(f"the {split} split is empty: more patients are needed")
    return TrainingSet(
        images_NVHW=images,
        to_network_N33=np.array(table["original_to_network"].to_pylist(), np.float64)[:, :9].reshape(
            -1, 3, 3
        ),
        months_N=aims.months_N,
        covariates_NQ=covariates.columns(table.to_pylist(), task.covariates),
        patients_N=patients,
        uids_N=np.array(table["sop_instance_uid"].to_pylist()),
        patient_sex_N=np.array([sex or "" for sex in patient_sex]),
        age_N=_floats(table, "age_months"),
        pseudo_N2=pseudo,
        is_expert_N=aims.is_expert_N,
        labels=choice.labels,
        splits_N=splits,
    )


def _noise(shape_VHW: tuple[int, ...]) -> NDArray[np.uint8]:
    """What every image becomes where none is shown.

    Not black: a batch norm over images without any variance learns what does not hold in evaluation.
    """
    return np.random.default_rng(0).integers(0, 256, shape_VHW, np.uint8)


def refuse_twins(data: TrainingSet) -> None:
    """Refuse a set where the same pixels lie in two splits, under whatever name; reads every image once.

    Flat images say nothing and are passed over.

    Raises:
        TrainingError: an image of one split is in another.
    """
    split_of: dict[bytes, str] = {}
    twins = 0
    for image_VHW, split in zip(data.images_NVHW, data.splits_N.tolist(), strict=True):
        if image_VHW.min() < image_VHW.max():
            digest = hashlib.blake2b(image_VHW.tobytes(), digest_size=_DIGEST_BYTES).digest()
            twins += split_of.setdefault(digest, split) != split
    if twins:
        raise TrainingError(
            f"{twins} image(s) lie in two splits, pixel for pixel: the held-out error would be a lie; "
            "mend the label table's split, or remove the copies from the archive"
        )


def splits_by_patient(patients_N: NDArray[Any], given: list[str | None]) -> NDArray[Any]:
    """Split of each sample: the label table's ``test`` is kept; the rest is divided by a hash of the patient.

    Raises:
        TrainingError: one patient is on both sides, or a split is named neither ``train`` nor ``test``.
    """
    unknown = {split for split in given if split} - {"train", "test"}
    if unknown:
        raise TrainingError(f"the label table has the split '{min(unknown)}': only train and test are known")
    has_given = any(given)
    splits = np.array([_split(key, split, has_given) for key, split in zip(patients_N, given, strict=True)])
    leaked = set(patients_N[splits == "test"]) & set(patients_N[splits != "test"])
    if leaked:
        raise TrainingError(
            f"{len(leaked)} patient(s) are in train and in test: mend the label table's split"
        )
    return splits


def _labelled(folder: Path, columns: list[str], labels: Sequence[Label]) -> Iterator[pa.Table]:
    """Columns and labels of each shard's samples with a label; of a file that changed, the last version.

    Raises:
        TrainingError: a required label has no column.
    """
    superseded = ledger.superseded(folder)
    for path in ledger.tables_of(folder, "samples"):
        stored = pq.read_schema(path).names
        for label in labels:
            if label.required and not set(label.columns) <= set(stored):
                raise TrainingError(f"{path} has no column {label.columns[0]}: ingest with --labels")
        held = [name for label in labels for name in label.columns if name in stored]
        table = pq.read_table(path, columns=["instance_index", *columns, *held])
        is_labelled = reduce(pc.or_, [table[name].is_valid() for name in held])
        yield table.filter(pc.and_not(is_labelled, pc.is_in(table["instance_index"], superseded)))


def _floats(table: pa.Table, name: str) -> NDArray[np.float32]:
    """A column of numbers, NaN where there is none; a table without the column has none at all."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan, np.float32)
    return np.array(table[name].cast(pa.float32()).to_numpy(), np.float32)


def _split(patient: str, given: str | None, has_given: bool) -> str:
    place = int(patient[:8], 16) % 100
    if has_given:
        return "test" if given == "test" else ("val" if place < _VAL_PERCENT else "train")
    if place < _TEST_PERCENT:
        return "test"
    return "val" if place < _TEST_PERCENT + _VAL_PERCENT else "train"
