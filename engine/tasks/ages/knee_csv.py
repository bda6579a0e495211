"""Layout ``knee`` of `osteoray convert`: films of knees in a folder with one CSV. No public set exists.

Columns, in any case: ``uid``, ``path`` (PNG or JPEG below the folder), ``sex`` (M, F), ``chron_months``,
``patient``; and, where known, ``bone_months`` (read by experts), ``pseudo_mean`` and ``pseudo_sd`` (by
models, of the paired hand), ``laterality`` (L, R), ``split`` (train, test). Ages in months.

Unlike other sets it states the chronological age, which the task takes as input: PatientAge is written.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path

from engine.datasets.archive import Listing, Planned, Skipped
from engine.datasets.convert import Layout
from engine.dicom.write import SECONDARY_CAPTURE, Facts, uid_from
from engine.errors import NoLabelError, SourceReadError, UsageError
from engine.tasks.ages.inputs import BONE_AGE, PSEUDO_COLUMNS

_NEEDED = ("uid", "path", "sex", "chron_months", "patient")
_MOST_MONTHS = 300.0
_SAFE_NAME = re.compile(r"[A-Za-z0-9._-]{1,48}")  # becomes a file name and part of a PatientID (at most 64)
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_SPLITS = {"": "", "train": "train", "test": "test"}
_SIDES = {"": None, "l": "L", "left": "L", "r": "R", "right": "R"}

Row = Mapping[str, str]


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
    return [_planned(row, root, number, seen) for number, row in enumerate(rows, start=2)]


def _planned(row: Row, root: Path, line: int, seen: set[str]) -> Planned | Skipped:
    try:
        if not _SAFE_NAME.fullmatch(row["uid"]) or not _SAFE_NAME.fullmatch(row["patient"]):
            raise NoLabelError(f"line {line}: uid or patient cannot name a file")
        if row["uid"] in seen:
            raise NoLabelError(f"line {line}: the uid has more than one row; the first is kept")
        seen.add(row["uid"])
        bone, mean, sd = (_months(row, name, line) for name in ("bone_months", "pseudo_mean", "pseudo_sd"))
        if bone is None and mean is None:
            raise NoLabelError(f"line {line}: neither bone_months nor pseudo_mean")
        pseudo = dict(zip(PSEUDO_COLUMNS, (mean, sd if mean is not None else None), strict=True))
        return Planned(
            name=row["uid"],
            image=_image(root, row["path"], line),
            facts=_facts(row, line),
            split=_meaning(row, "split", _SPLITS, line) or "",
            values={BONE_AGE.name: bone, **pseudo},
        )
    except (NoLabelError, SourceReadError) as error:
        return Skipped(f"line {line}", error.reason, str(error))


def _facts(row: Row, line: int) -> Facts:
    age, uid = _months(row, "chron_months", line), row["uid"]
    return Facts(
        sop_instance_uid=uid if _UID.fullmatch(uid) else uid_from("knee", uid, "instance"),
        study_instance_uid=uid_from("knee", uid, "study"),
        series_instance_uid=uid_from("knee", uid, "series"),
        patient_id=f"knee-{row['patient']}",
        patient_sex=_meaning(row, "sex", _SEXES, line),
        patient_age=None if age is None else f"{round(age):03d}M",
        sop_class_uid=SECONDARY_CAPTURE,
        modality="CR",
        body_part_examined="KNEE",
        image_laterality=_meaning(row, "laterality", _SIDES, line),
    )


def _image(root: Path, path: str, line: int) -> Path:
    image = (root / path).resolve()
    if not path or not image.is_relative_to(root.resolve()):
        raise SourceReadError(f"line {line}: path does not lie in the folder")
    return image


def _months(row: Row, name: str, line: int) -> float | None:
    text = row.get(name, "")
    if not text:
        return None
    try:
        months = float(text)
    except ValueError as error:
        raise NoLabelError(f"line {line}: {name} is no number") from error
    if not (math.isfinite(months) and 0 <= months <= _MOST_MONTHS):
        raise NoLabelError(f"line {line}: {name} is not within 0..{_MOST_MONTHS:g} months")
    return months


def _meaning(row: Row, name: str, meanings: Mapping[str, str | None], line: int) -> str | None:
    text = row.get(name, "").lower()
    if text not in meanings:
        raise NoLabelError(f"line {line}: {name} is not one of {', '.join(filter(None, meanings))}")
    return meanings[text]


KNEE = Layout(knee, labels=(BONE_AGE.name,))
