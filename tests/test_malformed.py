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


def comparable(name: str, below: str) -> list[tuple[Path, dict[str, str]]]:
    """Files of which we must give the stored values: another reader did, and they hold one grey frame."""
    return [
        (path, row)
        for path, row in cases(name, below)
        if row["decode"] == "ok"
        and row["samples"] == "1"
        and row["frames"] in {"", "1"}
        and 8 <= int(row["bits_alloc"]) <= 16
        and row["photometric"] != "PALETTE COLOR"
    ]


COMPARABLE = [*comparable("dicom_malformed", "."), *comparable("dicom_matrix", "files")]
LOSSY_BY_TWO = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
"""Two inverse cosine transforms may differ by a grey value or two."""


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), MATRIX, ids=lambda value: getattr(value, "stem", ""))
def test_matrix_files_end_typed(path: Path, row: dict[str, str]) -> None:
    stored = ended(lambda: stored_values(parse(path.read_bytes(), elements.TAGS, Limits()), Limits()))
    if isinstance(stored, np.ndarray):
        assert stored.shape == (int(row["rows"]), int(row["cols"]))
    else:
        assert stored.reason


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
@pytest.mark.parametrize(("path", "row"), COMPARABLE, ids=lambda value: getattr(value, "stem", ""))
def test_stored_values_are_those_of_the_manifest(path: Path, row: dict[str, str]) -> None:
    """Least and greatest value as an independent reader found them, sign and unused bits taken care of."""
    stored = stored_values(parse(path.read_bytes(), elements.TAGS, Limits()), Limits())
    bits = int(row["bits_stored"])
    values = stored.astype(np.int64) & ((1 << bits) - 1)
    if row["pixel_rep"] == "1":
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    tolerance = 2 if row["ts"] in LOSSY_BY_TWO else 0
    assert values.min() == pytest.approx(float(row["min"]), abs=tolerance)
    assert values.max() == pytest.approx(float(row["max"]), abs=tolerance)


@pytest.mark.skipif(not MATRIX, reason="the folder shared/data/dicom_matrix is not beside the checkout")
def test_many_syntaxes_are_compared() -> None:
    assert len(COMPARABLE) > 80
    assert len({row["ts"] for _, row in COMPARABLE}) >= 12
