"""Public data sets as DICOM archives: a layout is a function that lists what a folder holds.

    convert("rsna", folder, archive)   ->   archive/<nn>/<id>.dcm ... and, last, archive/labels.csv

An adapter reads tables only; pixels are read here, in the same way for every layout. A row that cannot be
converted is skipped with its reason and counted: rows = written + skipped.

Which SOP class and modality. The sources are PNG files: the acquisition context that a DX or CR object must
carry is gone, and the pixels were converted on a workstation, so they are Secondary Captures (PS3.3 A.8) with
Conversion Type WSD. Modality then names the *source* equipment and is optional (PS3.3 C.8.6.1, SC Equipment).
It is "CR": "OT" would hide that these are projection radiographs, "DX" would promise a digital detector,
which nobody recorded, and hand films of those years were mostly taken on storage phosphor plates.

Ages. These sets publish bone age, not the age of the child: PatientAge is not written, as a network that
takes chronological age as input would otherwise be handed its own answer. Layout ``knee`` states both.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.datasets.archive import (
    Label,
    Listing,
    Planned,
    Skipped,
    check_syntax,
    each,
    prepare_folder,
    syntax_of,
    write_labels,
)
from engine.datasets.knee_csv import knee
from engine.dicom.write import SECONDARY_CAPTURE, Facts, Stored, uid_from, write_instance
from engine.errors import (
    MissingDependencyError,
    NoLabelError,
    NotGrayscaleError,
    PixelDecodeError,
    SourceReadError,
    UnknownNameError,
    UsageError,
)

log = logging.getLogger(__name__)


def convert(
    layout: str,
    source: Path,
    out: Path,
    *,
    syntax: str = "explicit",
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the data set at ``source`` as a DICOM archive, and return its counts.

    ``limit`` takes the first rows only. The counts are ``rows``, ``written``, ``train``, ``test``,
    ``skipped``, and ``skipped_reasons`` (reason -> number).

    Raises:
        UsageError: ``source`` is not of this layout, or ``out`` is not empty.
        UnknownNameError: no such layout or transfer syntax.
        MissingDependencyError: a table is a spreadsheet and openpyxl is absent.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    check_syntax(syntax)
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder")
    listing = LAYOUTS[layout](source)[:limit]
    prepare_folder(out)
    jobs = [_Job(out, planned, syntax_of(index, syntax)) for index, planned in enumerate(listing)]
    labels: list[Label] = []
    skipped: Counter[str] = Counter()
    for outcome in each(_write, jobs, on_progress=on_progress):
        if isinstance(outcome, Label):
            labels.append(outcome)
        else:
            skipped[outcome.reason] += 1
            log.warning("skipped %s (%s): %s", outcome.name, outcome.reason, outcome.message)
    write_labels(out, labels)
    splits = Counter(label.split for label in labels)
    return {
        "rows": len(listing),
        "written": len(labels),
        "train": splits["train"],
        "test": splits["test"],
        "skipped": skipped.total(),
        "skipped_reasons": dict(sorted(skipped.items())),
    }


def read_grey(path: Path) -> Stored:
    """The stored values of a PNG as [rows, columns], uint8 or uint16, nothing rescaled.

    A colour file whose channels are all equal is grey that was saved as colour: one channel is taken.

    Raises:
        SourceReadError: there is no such file.
        PixelDecodeError: the file is no readable image.
        NotGrayscaleError: the channels differ.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.uint16)
            if image.mode in {"L", "1"}:
                return np.asarray(image.convert("L"))
            image_HW3: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise SourceReadError(f"{path.name}: no such image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PixelDecodeError(f"{path.name}: {error}") from error
    if (image_HW3 != image_HW3[..., :1]).any():
        raise NotGrayscaleError(f"{path.name}: colour channels differ")
    return image_HW3[..., 0]


@dataclass(frozen=True, slots=True)
class _Job:
    out: Path
    planned: Planned | Skipped
    syntax: str


def _write(job: _Job) -> Label | Skipped:
    planned = job.planned
    if isinstance(planned, Skipped):
        return planned
    try:
        stored_HW = read_grey(planned.image)
    except (SourceReadError, PixelDecodeError, NotGrayscaleError) as error:
        return Skipped(planned.name, error.reason, str(error))
    facts = dataclasses.replace(planned.facts, bits_stored=stored_HW.dtype.itemsize * 8)
    # A hundred folders at most: some file systems are slow with ten thousand files in one.
    path = job.out / planned.name[-2:] / f"{planned.name}.dcm"
    path.parent.mkdir(exist_ok=True)
    write_instance(path, stored_HW, facts, syntax=job.syntax)
    return Label(
        sop_instance_uid=facts.sop_instance_uid,
        bone_age_months=planned.bone_age_months,
        split=planned.split,
        more=planned.more,
    )


# --- rsna: RSNA Pediatric Bone Age Challenge 2017, as published and as commonly repacked ---


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


LAYOUTS: dict[str, Callable[[Path], Listing]] = {"rsna": rsna, "knee": knee}


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
            bone_age_months=_months(row),
            split=_cell(row, "split", _SPLITS) if row.get("split") else split,
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
