"""Free text of a header becomes a known word, or nothing."""

from __future__ import annotations

import pytest

from engine.dicom import allowed_values
from engine.dicom.columns import columns
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from tests.fixtures.dicom_fixture import EXPLICIT, image, picture

FREE = ("Modality", "Manufacturer", "BodyPartExamined", "ViewPosition", "PhotometricInterpretation")


@pytest.mark.parametrize(
    ("text", "term"),
    [("HAND", "HAND"), ("hand", "HAND"), ("L-Spine", "LSPINE"), ("WHOLE_BODY", "WHOLEBODY"),
     ("HAND MEIER", "HAND"), ("Meier", None), ("", None), (None, None)],
)  # fmt: skip
def test_body_parts(text: str | None, term: str | None) -> None:
    assert allowed_values.body_part(text) == term


@pytest.mark.parametrize(
    ("text", "name"),
    [("SIEMENS", "Siemens"), ("GE Healthcare", "GE"), ("FUJI PHOTO FILM Co., ltd.", "Fujifilm"),
     ("Philips Medical Systems (Meier)", "Philips"), ("GERMANN", None), ("Dr. Meier", None), (None, None)],
)  # fmt: skip
def test_makers(text: str | None, name: str | None) -> None:
    assert allowed_values.maker(text) == name


def test_codes() -> None:
    assert allowed_values.modality("dx") == "DX"
    assert allowed_values.modality("MEIER") is None
    assert allowed_values.view("LLO") == "LLO"
    assert allowed_values.view("MEIER") is None


@pytest.mark.parametrize("keyword", [*FREE, "StudyInstanceUID", "SeriesInstanceUID"])
def test_no_column_holds_what_was_typed(keyword: str) -> None:
    header = parse(image(picture(), **{keyword: "QXMARK MEIER"}), TAGS, Limits()).header
    assert "QXMARK" not in repr(columns(header, EXPLICIT, b"s" * 32)).upper()
