"""What a report and a capture say, read back by other people's tools."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom._standard_utils as standard
import highdicom.sr as hd
import numpy as np
import pydicom
import pytest
from fhir.resources.R4B.bundle import Bundle
from pydicom.sr._concepts_dict import concepts

from engine.delivery import fhir, secondary_capture, sr, uids
from engine.delivery.scored import RESEARCH_USE, Model, Scored
from engine.dicom.identity import identity
from engine.errors import HeaderError
from engine.evaluation.answer import Code, Measurement, Row
from engine.tasks import TASKS
from tests.fixtures.outside import complaints
from tests.fixtures.results_fixture import NAME, PATIENT, archive

MODEL = Model(
    sha256="ab" * 32, task=TASKS["hand-age"], name="osteoray hand-age net", version="0.1.0+0123456789ab",
    scored_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)  # fmt: skip
SCORED = Scored(
    {
        "sop_instance_uid": "1.2.1.1.1", "patient_key": "k", "predicted_months": 121.456, "sd_months": 8.25,
        "interval_low_months": 101.0, "interval_high_months": 141.5,
    },
    MODEL,
)  # fmt: skip
IMAGE_HW = np.tile(np.arange(96, dtype=np.uint8), (96, 1))
MAP_HW = np.full((4, 4), 255, np.uint8)


def source(**changes: object) -> bytes:
    return archive(1, **changes)["1.dcm"]


def made(kind: str, data: bytes) -> bytes:
    if kind == uids.SR:
        return sr.report(SCORED, identity(data))
    return secondary_capture.capture(SCORED, identity(data), IMAGE_HW, MAP_HW)


def scored_by(task: str) -> Scored:
    row = {**SCORED.row, "stage": 2, "stage_probability": 0.7, "expected_stage": 1.9}  # of sos-stage
    return Scored(row, dataclasses.replace(MODEL, task=TASKS[task], sha256="cd" * 32))


def read(data: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(data))


def test_highdicom_reads_back_what_was_measured() -> None:
    document = hd.ComprehensiveSR.from_dataset(read(made(uids.SR, source())))
    (group,) = document.content.get_image_measurement_groups()
    values = [(item.name.value, item.value, item.unit.value) for item in group.get_measurements()]
    assert values == [
        ("85151-9", 121.46, "mo"), ("85151-9", 8.25, "mo"), ("interval-low", 101.0, "mo"),
        ("interval-high", 141.5, "mo"),
    ]  # fmt: skip
    assert group.get_measurements()[1].derivation.meaning == "Standard Deviation"
    assert group.source_images[0].referenced_sop_instance_uid == "1.2.1.1.1"
    assert {item.value.value for item in group.get_qualitative_evaluations()} == {"research-use"}
    assert document.PreliminaryFlag == "PRELIMINARY"
    assert document.VerificationFlag == "UNVERIFIED"
    assert RESEARCH_USE in document.SeriesDescription


def test_a_report_names_algorithm_and_device() -> None:
    text = str(read(made(uids.SR, source())))
    for word in ("Algorithm Name", "Algorithm Version", "Algorithm Parameters", "Device Observer UID"):
        assert word in text
    assert MODEL.version in text
    assert uids.device_uid(MODEL.sha256) in text


def test_without_an_interval_none_is_stated() -> None:
    plain = Scored({**SCORED.row, "interval_low_months": None, "interval_high_months": None}, MODEL)
    document = hd.ComprehensiveSR.from_dataset(read(sr.report(plain, identity(source()))))
    (group,) = document.content.get_image_measurement_groups()
    assert len(group.get_measurements()) == 2


@pytest.mark.parametrize("kind", uids.KINDS)
def test_patient_and_study_are_those_of_the_source(kind: str) -> None:
    result = read(made(kind, source()))
    assert (str(result.PatientName), result.PatientID, result.PatientBirthDate) == (NAME, PATIENT, "20100203")
    assert (result.StudyInstanceUID, result.AccessionNumber, result.PatientSex) == ("1.2.1", "ACC-1", "F")
    assert result.SpecificCharacterSet == "ISO_IR 192"


def test_a_latin_1_name_becomes_unicode() -> None:
    result = read(made(uids.SR, source(SpecificCharacterSet="ISO_IR 100")))
    assert str(result.PatientName) == NAME


@pytest.mark.parametrize("kind", uids.KINDS)
def test_senseless_values_of_the_source_are_left_out(kind: str, recwarn: pytest.WarningsRecorder) -> None:
    broken = source().replace(b"20100203", b"2010FEB3")
    result = read(made(kind, broken))
    assert result.PatientBirthDate == ""
    assert not recwarn.list


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_source_without_a_study_gives_no_result(keyword: str) -> None:
    with pytest.raises(HeaderError, match=keyword):
        identity(source(**{keyword: None}))


@pytest.mark.parametrize("kind", uids.KINDS)
def test_the_same_row_gives_the_same_bytes(kind: str) -> None:
    assert made(kind, source()) == made(kind, source())


@pytest.mark.parametrize("kind", uids.KINDS)
def test_an_object_holds_what_the_standard_demands_and_nothing_foreign(kind: str) -> None:
    """By the module tables of PS3.3 that come with highdicom, which leave conditions out."""
    result = read(made(kind, source()))
    modules = standard.get_iod_module_map()[standard.get_sop_class_iod_map()[result.SOPClassUID]]
    mandatory = {entry["key"] for entry in modules if entry["usage"] == "M"}
    # Items of every value type share one table there, so that each would have to be all of them at once.
    for module in mandatory - {"sr-document-content"}:
        standard.check_required_attributes(result, module)
    rows = [row for entry in modules for row in standard.get_module_attribute_map()[entry["key"]]]
    types = {row["keyword"]: row["type"] for row in rows if not row["path"]}
    assert {element.keyword for element in result} - set(types) == set()
    assert [e.keyword for e in result if types[e.keyword] == "1" and e.is_empty] == []


@pytest.mark.parametrize("kind", uids.KINDS)
def test_dciodvfy_finds_no_fault(kind: str, tmp_path: Path) -> None:
    assert complaints(["dciodvfy"], made(kind, source()), tmp_path / "object.dcm") == []


def test_dcmtk_reads_the_tree_without_a_complaint(tmp_path: Path) -> None:
    assert complaints(["dsrdump"], made(uids.SR, source()), tmp_path / "object.dcm") == []


def test_a_capture_shows_the_map_and_says_research_use() -> None:
    result = read(made(uids.MAP, source()))
    picture = result.pixel_array
    assert picture.shape == (96 + 24, 96, 3)
    assert (picture[:96].std(axis=2) > 0).mean() > 0.9  # in colour where there is attention
    assert (picture[96:] > 200).any()  # words
    assert RESEARCH_USE in result.SeriesDescription
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.1.1.1"
    assert "BurnedInAnnotation" not in result


def test_text_burned_into_the_source_is_said_to_be_in_the_capture() -> None:
    assert read(made(uids.MAP, source(BurnedInAnnotation="YES"))).BurnedInAnnotation == "YES"


def test_uids_depend_on_all_four_parts_and_nothing_else() -> None:
    first = uids.result_uid("1.2", "aa", "hand-age", uids.SR)
    others = {
        uids.result_uid("1.3", "aa", "hand-age", uids.SR), uids.result_uid("1.2", "ab", "hand-age", uids.SR),
        uids.result_uid("1.2", "aa", "knee-age", uids.SR), uids.result_uid("1.2", "aa", "hand-age", uids.MAP),
        uids.series_uid("1.2", "aa", "hand-age", uids.SR),
    }  # fmt: skip
    assert first not in others
    assert len(others) == 5
    assert first == "2.25.86467132564841396310307547287817543870", "results of old runs would be doubled"
    assert len(first) <= 64


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_report(task: str, tmp_path: Path) -> None:
    data = sr.report(scored_by(task), identity(source()))
    assert complaints(["dciodvfy"], data, tmp_path / "object.dcm") == []


def of_another_kind() -> Scored:
    """A task that answers with a class, a probability and a landmark."""
    grade = Code("grade", sr.SCHEME, "Grade")

    def measurements(row: Row) -> list[Measurement]:
        return [
            Measurement(name=grade, value=Code(f"grade-{row['grade']}", sr.SCHEME, f"Grade {row['grade']}")),
            Measurement(name=Code("p", sr.SCHEME, "Probability"), value=row["p"], decimals=4),
            Measurement(
                name=Code("spread", sr.SCHEME, "Spread of landmark"),
                value=row["spread"],
                unit=Code("mm", "UCUM", "millimeter"),
                point_xy=(10.25, 3.0),
            ),
        ]

    answer = dataclasses.replace(TASKS["hand-age"].answer, measurements=measurements)
    task = dataclasses.replace(TASKS["hand-age"], name="graded", answer=answer)
    row = {**SCORED.row, "grade": 2, "p": 0.12345, "spread": 1.5}
    return Scored(row, dataclasses.replace(MODEL, task=task))


def test_classes_probabilities_and_points_stand_in_a_report(tmp_path: Path) -> None:
    data = sr.report(of_another_kind(), identity(source()))
    assert complaints(["dciodvfy"], data, tmp_path / "object.dcm") == []
    document = hd.ComprehensiveSR.from_dataset(read(data))
    (group,) = document.content.get_image_measurement_groups()
    assert [item.value.value for item in group.get_qualitative_evaluations()] == ["research-use", "grade-2"]
    probability, spread = group.get_measurements()
    assert (probability.name.value, probability.value, probability.unit.value) == ("p", 0.1235, "1")
    assert (spread.value, spread.unit.value) == (1.5, "mm")
    (point,) = [item for item in spread[0].ContentSequence if item.ValueType == "SCOORD"]
    assert (point.GraphicType, list(point.GraphicData)) == ("POINT", [10.75, 3.5])
    image = point.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == "1.2.1.1.1"


def test_classes_and_probabilities_stand_in_an_observation() -> None:
    found = fhir.bundle(of_another_kind())
    Bundle.model_validate(found)
    observation = found["entry"][1]["resource"]
    assert observation["code"] == {"text": "Probability"}
    assert observation["valueQuantity"] == {"value": 0.1235}
    assert [one["code"]["text"] for one in observation["component"]] == ["Grade", "Spread of landmark"]
    assert observation["component"][0]["valueCodeableConcept"] == {"text": "Grade 2"}
    assert observation["component"][1]["valueQuantity"]["code"] == "mm"


def coded(data_set: pydicom.Dataset) -> set[tuple[str, str, str]]:
    """Every coded concept of an object: scheme, value, meaning."""
    found: set[tuple[str, str, str]] = set()
    data_set.walk(
        lambda at, element: (
            found.add((at.CodingSchemeDesignator, at.CodeValue, at.CodeMeaning))
            if element.keyword == "CodeValue"
            else None
        )
    )
    return found


@pytest.mark.parametrize("task", TASKS)
def test_codes_of_the_standard_mean_what_the_standard_says(task: str) -> None:
    said = coded(read(sr.report(scored_by(task), identity(source()))))
    assert {scheme for scheme, _, _ in said} == {"DCM", "LN", "RFC5646", "SCT", "UCUM", sr.SCHEME}
    for scheme, value, meaning in said:
        if scheme in {"DCM", "SCT"}:
            assert meaning in {entry[value][0] for entry in concepts[scheme].values() if value in entry}
    # Of LOINC, pydicom has an extract only, without these.
    ages = {("LN", "85151-9", "XR Bone age"), ("LN", "24724-7", "XR Bones Views for bone age")}
    head = ("LN", "43787-1", "XR Skull, facial bones and mandible, for dental measurement")
    assert (ages if task.endswith("-age") else {head}) <= said
