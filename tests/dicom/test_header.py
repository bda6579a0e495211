"""Header columns: ages, spacing with its source, and a patient key that never merges strangers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydicom.dataset import Dataset

from engine.dicom import header as elements
from engine.dicom.columns import columns as columns_of
from engine.dicom.columns import laterality, sex_of
from engine.dicom.parse import Limits, parse
from engine.errors import HeaderError
from engine.store import schema
from tests.fixtures import dicom_fixture

SALT = b"s" * 32


def header(**values: Any) -> Dataset:
    data_set = Dataset()
    base = {"SOPInstanceUID": "1.2.3", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "PatientID": "p"}
    for keyword, value in {**base, **values}.items():
        if value is not None:
            setattr(data_set, keyword, value)
    return data_set


@pytest.mark.parametrize(
    ("values", "months"),
    [
        ({"PatientAge": "010Y"}, 120.0),
        ({"PatientAge": "018M"}, 18.0),
        ({"PatientAge": "002W"}, 14 / 30.4375),
        ({"PatientAge": "030D"}, 30 / 30.4375),
        ({"PatientAge": "10"}, None),
        ({"PatientAge": ""}, None),
        ({}, None),
        ({"PatientBirthDate": "20100101", "StudyDate": "20200101"}, 3652 / 30.4375),
        ({"PatientBirthDate": "20200101", "StudyDate": "20100101"}, None),
        ({"PatientBirthDate": "2010", "StudyDate": "20200101"}, None),
        ({"PatientAge": "005Y", "PatientBirthDate": "20100101", "StudyDate": "20200101"}, 60.0),
        ({"PatientAge": "000Y"}, None),
        ({"PatientAge": "000Y", "PatientBirthDate": "20200101", "StudyDate": "20200401"}, 91 / 30.4375),
        ({"PatientAge": "000D"}, 0.0),
        ({"PatientAge": "999Y"}, None),
        ({"PatientBirthDate": "2010.01.01", "AcquisitionDate": "20200101"}, 3652 / 30.4375),
        ({"PatientBirthDate": "18000101", "SeriesDate": "20200101"}, None),
    ],
)
def test_age_months(values: dict[str, str], months: float | None) -> None:
    found = elements.age_months(header(**values))
    assert found == (pytest.approx(months) if months is not None else None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (None, None, None)),
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3, "pixel_spacing:unspecified")),
        (
            {
                "PixelSpacing": [0.2, 0.2],
                "PixelSpacingCalibrationType": "FIDUCIAL",
                "ImagerPixelSpacing": [1, 1],
            },
            (0.2, 0.2, "pixel_spacing:fiducial"),
        ),
        ({"ImagerPixelSpacing": [0.15, 0.15]}, (0.15, 0.15, "imager_pixel_spacing:detector_plane")),
        (
            {"ImagerPixelSpacing": [0.15, 0.3], "EstimatedRadiographicMagnificationFactor": 1.5},
            (pytest.approx(0.1), pytest.approx(0.2), "imager_pixel_spacing:magnification"),
        ),
        ({"PixelSpacing": [0, 0.2]}, (None, None, None)),
        (
            {"PixelSpacing": [0.2, 0.2], "PixelSpacingCalibrationType": "by Dr. Canary"},
            (0.2, 0.2, "pixel_spacing:other"),
        ),
        (
            {"PixelSpacing": [0.15, 0.15], "ImagerPixelSpacing": [0.15, 0.15]},
            (0.15, 0.15, "imager_pixel_spacing:detector_plane"),
        ),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.2],
                "DistanceSourceToDetector": 1100,
                "DistanceSourceToPatient": 1000,
            },
            (pytest.approx(0.2 / 1.1), pytest.approx(0.2 / 1.1), "imager_pixel_spacing:magnification"),
        ),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "EstimatedRadiographicMagnificationFactor": 0.5},
            (0.2, 0.2, "imager_pixel_spacing:detector_plane"),
        ),
        ({"NominalScannedPixelSpacing": [0.1, 0.2]}, (0.1, 0.2, "nominal_scanned_pixel_spacing")),
    ],
)
def test_spacing_says_where_it_comes_from(values: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert elements.spacing(header(**values)) == expected


@pytest.mark.parametrize(("stated", "sex"), [("F", "F"), ("m", "M"), ("O ", "O"), ("X", None), ("", None)])
def test_sex_is_a_term_of_the_standard_or_nothing(stated: str, sex: str | None) -> None:
    assert sex_of(header(PatientSex=stated)) == sex


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"ImageLaterality": "left", "Laterality": "R"}, "L"),
        ({"ImageLaterality": "Canary", "Laterality": "R"}, "R"),
        ({"Laterality": ["L", "R"]}, "B"),
        ({"ImageLaterality": "U", "BodyPartExamined": "RHAND"}, "R"),
        ({"Laterality": "Canary"}, None),
        ({}, None),
    ],
)
def test_laterality_is_the_images_before_the_series(values: dict[str, str], expected: str | None) -> None:
    assert laterality(header(**values)) == expected


def test_position_and_orientation_are_whole_or_missing() -> None:
    placed = header(ImagePositionPatient=[1, 2, 3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    columns = columns_of(placed, "1.2.840.10008.1.2", SALT)
    assert columns["image_position_patient"] == [1.0, 2.0, 3.0]
    assert columns["image_orientation_patient"] is None
    assert columns["is_localizer"]
    assert elements.numbers(header(ImagePositionPatient=[1, 2]), "ImagePositionPatient", 3) is None


def test_patient_key_is_one_per_patient_and_per_salt() -> None:
    key = elements.patient_key(header(PatientID="a", StudyInstanceUID="1.1"), SALT)
    assert key == elements.patient_key(header(PatientID="a", StudyInstanceUID="1.2"), SALT)
    assert key != elements.patient_key(header(PatientID="b", StudyInstanceUID="1.1"), SALT)
    assert key != elements.patient_key(header(PatientID="a", IssuerOfPatientID="other"), SALT)
    assert key != elements.patient_key(header(PatientID="a", StudyInstanceUID="1.1"), b"t" * 32)


@pytest.mark.parametrize("missing", [None, "", "  ", "\t"])
def test_patients_without_an_id_are_not_merged(missing: str | None) -> None:
    first = elements.patient_key(header(PatientID=missing, StudyInstanceUID="1.1"), SALT)
    second = elements.patient_key(header(PatientID=missing, StudyInstanceUID="1.2"), SALT)
    assert first != second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"IssuerOfPatientID": "a|b", "PatientID": "c"}, {"IssuerOfPatientID": "a", "PatientID": "b|c"}),
        ({"PatientID": ["a", "1"]}, {"PatientID": ["a", "2"]}),
        ({"PatientID": ["a", "b"]}, {"PatientID": "a"}),
    ],
)
def test_strangers_whose_ids_look_alike_are_not_merged(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert elements.patient_key(header(**one), SALT) != elements.patient_key(header(**other), SALT)


@pytest.mark.parametrize(
    ("charset", "raw"),
    [("utf-7", b"+2AA-"), ("unicode_escape", b"\\ud800"), ("hex", b"zz"), ("ISO 2022 IR 87", b"\xff$B")],
)
def test_any_character_set_gives_text_that_a_table_holds(charset: str, raw: bytes) -> None:
    """Python knows more character sets than DICOM; some of them decode to what is no text."""
    named = dicom_fixture.written(dicom_fixture.header(Manufacturer="Y" * len(raw)))
    value = charset.encode() + b" " * (len(charset) % 2)
    element = b"\x08\0\x05\0CS" + len(value).to_bytes(2, "little") + value
    rest = dicom_fixture.data_set_of(named).replace(b"Y" * len(raw), raw)
    data_set = parse(dicom_fixture.meta(dicom_fixture.EXPLICIT) + element + rest, elements.TAGS, Limits())
    columns = columns_of(data_set.header, data_set.transfer_syntax_uid, SALT)
    assert pa.Table.from_pylist([columns], schema=pa.schema(schema.HEADER_FIELDS)).num_rows == 1


def test_finite_tells_no_value_from_a_wrong_one() -> None:
    assert elements.finite(header(), "RescaleSlope", 2.0) == 2.0
    assert elements.finite(header(RescaleSlope=""), "RescaleSlope", 2.0) == 2.0
    assert elements.finite(header(RescaleSlope="0.5"), "RescaleSlope", 2.0) == 0.5
    with pytest.raises(HeaderError, match="WindowWidth is no finite number"):
        elements.finite(header(WindowWidth=float("nan")), "WindowWidth", 2.0)


def test_columns_are_those_of_the_schema_and_hold_no_patient_tag() -> None:
    columns = columns_of(
        header(PatientID="CANARY", PatientBirthDate="20100101", StudyDate="20200101"),
        "1.2.840.10008.1.2",
        SALT,
    )
    assert list(columns) == [field.name for field in schema.HEADER_FIELDS]
    assert "CANARY" not in str(columns)
    assert "2010" not in str(columns)


@pytest.mark.parametrize("uid", [None, "", "no uid", "1." * 40])
def test_identity_is_needed(uid: str | None) -> None:
    with pytest.raises(HeaderError, match="SOPInstanceUID"):
        columns_of(header(SOPInstanceUID=uid), "1.2.840.10008.1.2", SALT)
