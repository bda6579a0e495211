"""An ingest folder as a training set: columns in memory, images in one memory-mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine import books
from engine.errors import TableError, TrainingError
from engine.manifest import read_json, sha256_of_facts, sha256_of_file
from engine.predict import sex_covariate
from engine.schema import tensor_values

SPLITS = ("train", "val", "test")
_VAL_PERCENT, _TEST_PERCENT = 10, 15
_IMAGES_NAME = "images.u8"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Samples with a label. Arrays over N; ``images_NHW`` is uint8, mapped from disk."""

    images_NHW: NDArray[np.uint8]
    months_N: NDArray[np.float32]
    sex_N: NDArray[np.float32]
    patients_N: NDArray[Any]
    uids_N: NDArray[Any]
    patient_sex_N: NDArray[Any]
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
    digests = [read_json(path.parent / "shard.json")["sha256"] for path in books.tables_of(folder, "samples")]
    return {
        "counts": manifest["counts"],
        "rule": manifest["task"]["rule"],
        "sha256": sha256_of_facts(digests),
        "plan_sha256": sha256_of_file(folder / books.PLAN_NAME),
    }


def pack_images(folder: Path, cache: Path, label: str) -> None:
    """Write the images of all labelled samples to one raw file in ``cache``, in shard order.

    Raises:
        TrainingError: the folder was ingested without labels.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / _IMAGES_NAME).open("wb") as stream:
        for table in _labelled(folder, ["image"], label):
            stream.write(tensor_values(table["image"]).tobytes())


def open_training_set(folder: Path, cache: Path, label: str) -> TrainingSet:
    """Columns of all labelled samples, and the images packed by ``pack_images``.

    Raises:
        TrainingError: no sample has a label, a label is no number, a split that training needs is empty, or a
            patient is on both sides.
    """
    names = ["sop_instance_uid", "patient_key", "patient_sex", "split"]
    parts = list(_labelled(folder, names, label))
    count = sum(part.num_rows for part in parts)
    if count == 0:
        raise TrainingError(f"{folder} has no labelled sample: ingest with --labels")
    table = pa.concat_tables(parts)
    months = table[label].to_numpy().astype(np.float32)
    if not np.isfinite(months).all():
        raise TrainingError(f"{folder} has labels that are no finite numbers: mend the label table")
    size = tuple(read_json(folder / "manifest.json")["task"]["rule"]["view"]["size_HW"])
    images = np.memmap(cache / _IMAGES_NAME, np.uint8, "r", shape=(count, *size))
    patient_sex = table["patient_sex"].to_pylist()
    patients = np.array(table["patient_key"].to_pylist())
    splits = splits_by_patient(patients, table["split"].to_pylist())
    for split in SPLITS:
        if not (splits == split).any():
            raise TrainingError(f"the {split} split is empty: more patients are needed")
    return TrainingSet(
        images_NHW=images,
        months_N=months,
        sex_N=np.array([sex_covariate(sex) for sex in patient_sex], np.float32),
        patients_N=patients,
        uids_N=np.array(table["sop_instance_uid"].to_pylist()),
        patient_sex_N=np.array([sex or "" for sex in patient_sex]),
        splits_N=splits,
    )


def refuse_twins(data: TrainingSet) -> None:
    """Refuse a set where the same pixels lie in two splits, under whatever name; reads every image once.

    Flat images say nothing and are passed over.

    Raises:
        TrainingError: an image of one split is in another.
    """
    split_of: dict[bytes, str] = {}
    twins = 0
    for image_HW, split in zip(data.images_NHW, data.splits_N.tolist(), strict=True):
        if image_HW.min() < image_HW.max():
            digest = hashlib.blake2b(image_HW.tobytes(), digest_size=_DIGEST_BYTES).digest()
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


def _labelled(folder: Path, columns: list[str], label: str) -> Iterator[pa.Table]:
    """Columns of each shard's labelled samples, and the label; of a file that changed, the last version."""
    superseded = books.superseded(folder)
    for path in books.tables_of(folder, "samples"):
        if label not in pq.read_schema(path).names:
            raise TrainingError(f"{path} has no column {label}: ingest with --labels")
        table = pq.read_table(path, columns=["instance_index", *columns, label])
        is_old = pc.is_in(table["instance_index"], superseded)
        yield table.filter(pc.and_(table[label].is_valid(), pc.invert(is_old)))


def _split(patient: str, given: str | None, has_given: bool) -> str:
    place = int(patient[:8], 16) % 100
    if has_given:
        return "test" if given == "test" else ("val" if place < _VAL_PERCENT else "train")
    if place < _TEST_PERCENT:
        return "test"
    return "val" if place < _TEST_PERCENT + _VAL_PERCENT else "train"


def gate_samples(folder: Path, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Up to ``count`` real samples of an ingest folder, spread over its shards: images [B, H, W] and sex [B].

    Held-out samples come first where the label table has a split.

    Raises:
        TableError: the folder holds no samples.
    """
    paths = books.tables_of(folder, "samples")
    images, sexes = [], []
    per_shard = max(count // max(len(paths), 1), 1)
    for path in paths:
        table = pq.read_table(path, columns=["image", "patient_sex", "split"])
        table = table.sort_by([("split", "ascending")])
        images.append(tensor_values(table["image"].slice(0, per_shard)))
        sexes += table["patient_sex"].to_pylist()[:per_shard]
    if not sexes:
        raise TableError(f"{folder} holds no samples: the parity gate needs real ones")
    sex_B = np.array([sex_covariate(sex) for sex in sexes[:count]], np.float32)
    return np.concatenate(images)[:count], sex_B
