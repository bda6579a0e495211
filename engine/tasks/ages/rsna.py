"""Layout ``rsna`` of `osteoray convert`: RSNA Pediatric Bone Age Challenge 2017, as published or repacked.

It publishes bone age, not the age of the child: PatientAge is not written, as a network that takes
chronological age as input would otherwise be handed its own answer.
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.datasets.archive import Listing, Planned, Skipped
from engine.datasets.convert import Layout
from engine.dicom.write import SECONDARY_CAPTURE, Facts, uid_from
from engine.errors import MissingDependencyError, NoLabelError, SourceReadError, UsageError
from engine.tasks.ages.inputs import BONE_AGE


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the challenge: its file name without ending, and the split of its rows.

    ``images`` is the folder beside it that holds its images; None: they are anywhere under the root.
    """

    stem: str
    images: str | None
    split: str


_RSNA_TABLES = (
    _Table("labels", "images", "train"),
    _Table("boneage-training-dataset", None, "train"),
    _Table("validation dataset", None, "test"),
    _Table("bone age ground truth", None, "test"),
)
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
_SEXES = {"true": "M", "1": "M", "m": "M", "male": "M", "false": "F", "0": "F", "f": "F", "female": "F"}
_SPLITS = {"train": "train", "test": "test", "val": "test", "validation": "test"}
_MOST_MONTHS = 300
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")  # becomes a file name and part of a PatientID (at most 64)


def rsna(root: Path) -> Listing:
    """Bone age challenge: ``labels.csv`` with ``images/``, or the tables under their original names.

    Tables may lie in sub-folders, and images at any depth. Column names match in any case. Training is
    ``train``; validation and test are ``test``; a ``split`` column wins over both.
    """
    listing: Listing = []
    seen: set[str] = set()
    for table in _RSNA_TABLES:
        file = _find_table(root, table.stem)
        if file is None:
            continue
        images = _images_by_stem(file.parent / table.images if table.images else root)
        listing += [_rsna_row(row, images, seen, table.split) for row in _read_rows(file)]
    if not listing:
        wanted = ", ".join(f"{table.stem}.csv" for table in _RSNA_TABLES)
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


def _rsna_row(
    row: Mapping[str, str], images: Mapping[str, Path], seen: set[str], split: str
) -> Planned | Skipped:
    name = row.get("id", "").removesuffix(".png").removesuffix(".0")
    try:
        if not _SAFE_NAME.fullmatch(name):
            raise NoLabelError(f"the id {name!r} cannot name a file")
        if name in seen:
            raise NoLabelError(f"id {name} has more than one row; the first is kept")
        seen.add(name)
        if name not in images:
            raise SourceReadError(f"id {name}: no image {name}.png")
        return Planned(
            name=name,
            image=images[name],
            facts=_rsna_facts(name, _cell(row, "sex", _SEXES)),
            split=_cell(row, "split", _SPLITS) if row.get("split") else split,
            values={BONE_AGE.name: _months(row)},
        )
    except (NoLabelError, SourceReadError) as error:
        return Skipped(name, error.reason, str(error))


def _rsna_facts(name: str, sex: str) -> Facts:
    return Facts(
        sop_instance_uid=uid_from("rsna", name, "instance"),
        study_instance_uid=uid_from("rsna", name, "study"),
        series_instance_uid=uid_from("rsna", name, "series"),
        patient_id=f"rsna-{name}",
        patient_sex=sex,
        sop_class_uid=SECONDARY_CAPTURE,
        modality="CR",
        body_part_examined="HAND",
    )


def _cell(row: Mapping[str, str], column: str, meanings: Mapping[str, str]) -> str:
    text = row.get(column, "")
    if text.lower() not in meanings:
        raise NoLabelError(f"id {row['id']}: {column} is {text!r}, not one of {', '.join(meanings)}")
    return meanings[text.lower()]


def _months(row: Mapping[str, str]) -> float:
    text = row.get("age", "")
    try:
        months = float(text)
    except ValueError as error:
        raise NoLabelError(f"id {row['id']}: bone age {text!r} is no number") from error
    if not 0 <= months <= _MOST_MONTHS:
        raise NoLabelError(f"id {row['id']}: bone age {text} is not within 0..{_MOST_MONTHS} months")
    return months


RSNA = Layout(rsna, labels=(BONE_AGE.name,))
