"""Files that others collected to break readers: each ends as a sample or as a typed error."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.dicom import header as elements
from engine.dicom.guard import Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import FilteredError, InstanceError
from engine.instance import Instance, prepare
from engine.tasks.hand_age import HAND_AGE

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ANY_IMAGE = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", *HAND_AGE.rule.sop_classes)


def cases(name: str, below: str) -> list[tuple[Path, dict[str, str]]]:
    manifest = DATA / name / "manifest.csv"
    if not manifest.exists():
        return []
    with manifest.open() as stream:
        return [(DATA / name / below / row["file"], row) for row in csv.DictReader(stream)]


def ended(read: Callable[[], Any]) -> Any:
    """What a read gives, or its typed error; any other error fails the test."""
    try:
        return read()
    except (InstanceError, FilteredError) as error:
        return error


MALFORMED = cases("dicom_malformed", ".")
MATRIX = cases("dicom_matrix", "files")


@pytest.mark.skipif(not MALFORMED, reason="the folder shared/data/dicom_malformed is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), MALFORMED, ids=lambda value: getattr(value, "stem", ""))
def test_malformed_files_end_typed(path: Path, row: dict[str, str]) -> None:
    outcome = ended(
        lambda: prepare(path.read_bytes(), replace(HAND_AGE.rule, sop_classes=ANY_IMAGE), b"s" * 32)
    )
    if isinstance(outcome, Instance):
        assert outcome.image_HW.shape == HAND_AGE.rule.view.size_HW
        assert outcome.columns["rows"] * outcome.columns["columns"] > 0
    else:
        assert outcome.code.startswith("ORY-")
        assert outcome.reason
        assert str(outcome)


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), MATRIX, ids=lambda value: getattr(value, "stem", ""))
def test_the_matrix_has_the_stored_values_of_its_manifest(path: Path, row: dict[str, str]) -> None:
    """Least and greatest stored value as an independent reader found them, where both read the file."""
    stored = ended(lambda: stored_values(parse(path.read_bytes(), elements.TAGS, Limits()), Limits()))
    if not isinstance(stored, np.ndarray):
        assert stored.reason
        return
    is_lossy = row["ts"] in {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91"}
    is_wide = (
        int(row["bits_alloc"] or 0) > 16
    )  # float maps: no radiograph, refused before their pixels are read
    if row["decode"] != "ok" or is_lossy or is_wide or row["pixel_rep"] == "1":
        return
    assert stored.shape == (int(row["rows"]), int(row["cols"]))
    found = stored.astype(np.uint16)  # some code streams are signed where the header is not
    assert (found.min(), found.max()) == (float(row["min"]), float(row["max"]))
