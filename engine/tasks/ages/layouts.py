"""Layouts of `osteoray convert` for sets of bone age: a folder as it is downloaded -> what is to be written.

``rsna`` is the RSNA Pediatric Bone Age Challenge 2017, as published or repacked. It states bone age, not
the age of the child: PatientAge is not written, as a network that takes chronological age as input would
otherwise be handed its own answer.

``knee`` is a folder of knee films with one CSV; no public set of children's knees exists. Its columns, in
any case: ``uid``, ``path`` (PNG or JPEG below the folder), ``sex`` (M, F), ``chron_months``, ``patient``;
and, where known, ``bone_months`` (read by experts), ``pseudo_mean`` and ``pseudo_sd`` (by models, of the
paired hand), ``laterality`` (L, R), ``split`` (train, test). Ages in months. PatientAge is written.
"""

from __future__ import annotations

import csv
import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.datasets.archive import Listing, Planned, Skipped
from engine.datasets.convert import Layout
from engine.dicom.write import SECONDARY_CAPTURE, Facts, uid_from
from engine.errors import MissingDependencyError, NoLabelError, SourceReadError, UsageError
from engine.tasks.ages.inputs import BONE_AGE, PSEUDO_COLUMNS

_MOST_MONTHS = 300.0
_SEXES = {"true": "M", "1": "M", "m": "M", "male": "M", "false": "F", "0": "F", "f": "F", "female": "F"}

Row = Mapping[str, str]


# --- rsna


_RSNA_TABLES = (
    ("labels", "images", "train"),
    ("boneage-training-dataset", "", "train"),
    ("validation dataset", "", "test"),
    ("bone age ground truth", "", "test"),
)
"""File name without ending, the folder beside it that holds its images (else anywhere), split of its rows."""
_RSNA_COLUMNS = {
    "id": "id",
    "image id": "id",
    "case id": "id",
    "boneage": "age",
    "bone age (months)": "age",
    "ground truth bone age (months)": "age",
    "male": "sex",
    "sex": "sex",
    "split": "split",
}
_RSNA_SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,48}")  # becomes a file name and part of a PatientID (at most 64)


def rsna(root: Path) -> Listing:
    """Bone age challenge: ``labels.csv`` with ``images/``, or the tables under their original names.

    Tables may lie in sub-folders, and images at any depth. Column names match in any case. Training is
    ``train``; validation and test are ``test``; a ``split`` column wins over both.
    """
    listing: Listing = []
    seen: set[str] = set()
    for stem, folder, split in _RSNA_TABLES:
        file = _find_table(root, stem)
        if file is not None:
            images = _images_by_stem(file.parent / folder if folder else root)
            listing += [_rsna_row(row, images, seen, split) for row in _read_rows(file)]
    if not listing:
        wanted = ", ".join(f"{stem}.csv" for stem, _, _ in _RSNA_TABLES)
        raise UsageError(f"{root} is not an rsna folder: none of {wanted} with rows in it")
    return listing


def _find_table(root: Path, stem: str) -> Path | None:
    found = sorted(p for p in root.rglob("*.[cCxX][sSlL][vVsS]*") if p.stem.lower() == stem)
    by_ending = {p.suffix.lower(): p for p in reversed(found)}
    return by_ending.get(".csv", by_ending.get(".xlsx"))


def _images_by_stem(folder: Path) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.png")):
        if path.name.startswith("."):  # resource forks that macOS leaves in ZIP files
            continue
        if path.stem in images:
            raise UsageError(f"two images for one id: {images[path.stem]} and {path}; remove one")
        images[path.stem] = path
    return images


def _read_rows(file: Path) -> list[dict[str, str]]:
    """Rows as canonical column -> text. Raises UsageError where id, age or sex has no column."""
    lines = _read_csv(file) if file.suffix.lower() == ".csv" else _read_xlsx(file)
    if not lines:
        raise UsageError(f"{file} is empty")
    names = [_RSNA_COLUMNS.get(" ".join(name.lower().split())) for name in lines[0]]
    missing = {"id", "age", "sex"} - set(names)
    if missing:
        raise UsageError(f"{file} has no column for {', '.join(sorted(missing))}; it has {lines[0]}")
    rows = (
        {name: cell.strip() for name, cell in zip(names, line, strict=False) if name} for line in lines[1:]
    )
    return [row for row in rows if any(row.values())]


def _read_csv(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as handle:
        return list(csv.reader(handle))


def _read_xlsx(file: Path) -> list[list[str]]:
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file} is a spreadsheet: save it as CSV beside itself, or pip install openpyxl"
        ) from error
    sheet = openpyxl.load_workbook(file, read_only=True, data_only=True).active
    return [["" if cell is None else str(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]


def _rsna_row(row: Row, images: Mapping[str, Path], seen: set[str], split: str) -> Planned | Skipped:
    name = row.get("id", "").removesuffix(".png").removesuffix(".0")
    try:
        if not _SAFE_ID.fullmatch(name):
            raise NoLabelError(f"the id {name!r} cannot name a file")
        if name in seen:
            raise NoLabelError(f"id {name} has more than one row; the first is kept")
        seen.add(name)
        if name not in images:
            raise SourceReadError(f"id {name}: no image {name}.png")
        months = _months(row, "age", f"id {name}")
        if months is None:
            raise NoLabelError(f"id {name}: no age")
        return Planned(
            name=name,
            image=images[name],
            facts=_facts(
                "rsna",
                name,
                name,
                patient_sex=_meaning(row, "sex", _SEXES, f"id {name}"),
                body_part_examined="HAND",
            ),
            split=(_meaning(row, "split", _RSNA_SPLITS, f"id {name}") if row.get("split") else split) or "",
            values={BONE_AGE.name: months},
        )
    except (NoLabelError, SourceReadError) as error:
        return Skipped(name, error.reason, str(error))


# --- knee

_NEEDED = ("uid", "path", "sex", "chron_months", "patient")
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,48}")  # becomes a file name and part of a PatientID (at most 64)
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_KNEE_SPLITS = {"": "", "train": "train", "test": "test"}
_SIDES = {"": None, "l": "L", "left": "L", "r": "R", "right": "R"}


def knee(root: Path) -> Listing:
    """Rows of the one CSV in ``root``.

    Raises:
        UsageError: there is none or more than one, or it lacks a column.
    """
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv")
    if len(tables) != 1:
        raise UsageError(f"{root} is not a knee folder: it holds {len(tables)} CSV files, not one")
    with tables[0].open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = [name.strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = [{name: (row.get(name) or "").strip() for name in names} for row in reader]
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UsageError(f"{tables[0]} has no column {', '.join(missing)}")
    seen: set[str] = set()
    return [_knee_row(row, root, number, seen) for number, row in enumerate(rows, start=2)]


def _knee_row(row: Row, root: Path, line: int, seen: set[str]) -> Planned | Skipped:
    at, uid = f"line {line}", row["uid"]
    try:
        if not _SAFE_NAME.fullmatch(uid) or not _SAFE_NAME.fullmatch(row["patient"]):
            raise NoLabelError(f"{at}: uid or patient cannot name a file")
        if uid in seen:
            raise NoLabelError(f"{at}: the uid has more than one row; the first is kept")
        seen.add(uid)
        bone, mean, sd = (_months(row, name, at) for name in ("bone_months", "pseudo_mean", "pseudo_sd"))
        if bone is None and mean is None:
            raise NoLabelError(f"{at}: neither bone_months nor pseudo_mean")
        pseudo = dict(zip(PSEUDO_COLUMNS, (mean, sd if mean is not None else None), strict=True))
        image = _image(root, row["path"], line)
        age = _months(row, "chron_months", at)
        facts = _facts(
            "knee",
            uid,
            row["patient"],
            patient_sex=_meaning(row, "sex", _SEXES, at),
            patient_age=None if age is None else f"{round(age):03d}M",
            body_part_examined="KNEE",
            image_laterality=_meaning(row, "laterality", _SIDES, at),
        )
        return Planned(
            name=uid,
            image=image,
            facts=replace(facts, sop_instance_uid=uid) if _UID.fullmatch(uid) else facts,
            split=_meaning(row, "split", _KNEE_SPLITS, at) or "",
            values={BONE_AGE.name: bone, **pseudo},
        )
    except (NoLabelError, SourceReadError) as error:
        return Skipped(at, error.reason, str(error))


def _image(root: Path, path: str, line: int) -> Path:
    image = (root / path).resolve()
    if not path or not image.is_relative_to(root.resolve()):
        raise SourceReadError(f"line {line}: path does not lie in the folder")
    return image


# --- both


def _facts(layout: str, name: str, patient: str, **stated: Any) -> Facts:
    """What stands in the header of a film; its UIDs follow from its name."""
    return Facts(
        sop_instance_uid=uid_from(layout, name, "instance"),
        study_instance_uid=uid_from(layout, name, "study"),
        series_instance_uid=uid_from(layout, name, "series"),
        patient_id=f"{layout}-{patient}",
        sop_class_uid=SECONDARY_CAPTURE,
        modality="CR",
        **stated,
    )


def _months(row: Row, name: str, at: str) -> float | None:
    text = row.get(name, "")
    if not text:
        return None
    try:
        months = float(text)
    except ValueError as error:
        raise NoLabelError(f"{at}: {name} is no number") from error
    if not (math.isfinite(months) and 0 <= months <= _MOST_MONTHS):
        raise NoLabelError(f"{at}: {name} is not within 0..{_MOST_MONTHS:g} months")
    return months


def _meaning(row: Row, name: str, meanings: Mapping[str, str | None], at: str) -> str | None:
    text = row.get(name, "").lower()
    if text not in meanings:
        raise NoLabelError(f"{at}: {name} is not one of {', '.join(filter(None, meanings))}")
    return meanings[text]


LAYOUTS = {"rsna": Layout(rsna, labels=(BONE_AGE.name,)), "knee": Layout(knee, labels=(BONE_AGE.name,))}
