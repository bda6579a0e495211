"""Files that say too little, or oddly: UIDs in the file meta alone, fields without a VR, DICM by chance."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from engine.dicom.columns import columns
from engine.dicom.deidentify import deidentified
from engine.dicom.header import TAGS, patient_key
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import HeaderError, InstanceError
from tests.fixtures.dicom_fixture import BIG_ENDIAN, IMPLICIT, data_set_of, image, meta, picture

SALT = b"s" * 32
EXPLICIT = "1.2.840.10008.1.2.1"
STORED_HW = picture((24, 20))


def read(data: bytes) -> DataSet:
    return parse(data, TAGS, Limits())


def row(data: bytes) -> dict[str, Any]:
    found = read(data)
    assert np.array_equal(stored_values(found, Limits()), STORED_HW)
    return columns(found.header, found.transfer_syntax_uid, SALT)


def with_vr(data: bytes, tag: tuple[int, int], vr: bytes) -> bytes:
    """The file with another VR field in the element ``tag`` of its explicit data set or its meta group."""
    head = struct.pack("<HH", *tag)
    at = data.index(head, 132)
    return data[: at + 4] + vr + data[at + 6 :]


ODD = [b"  ", b"\0\0", b"??", b" \0", None]
"""None is the element's own VR in small letters."""


def odd(vr: bytes | None, own: bytes) -> bytes:
    return own.lower() if vr is None else vr


@pytest.mark.parametrize("vr", ODD)
@pytest.mark.parametrize(
    ("tag", "own"),
    [((0x0008, 0x0016), b"UI"), ((0x0008, 0x0060), b"CS"), ((0x0010, 0x0020), b"LO"),
     ((0x0028, 0x0010), b"US"), ((0x0028, 0x0103), b"US"), ((0x7FE0, 0x0010), b"OW")],
)  # fmt: skip
def test_a_vr_field_without_a_vr(tag: tuple[int, int], own: bytes, vr: bytes | None) -> None:
    usual = image(STORED_HW, BodyPartExamined="HAND")
    assert row(with_vr(usual, tag, odd(vr, own))) == row(usual)


@pytest.mark.parametrize("vr", ODD)
def test_several_of_them_after_each_other(vr: bytes | None) -> None:
    usual = image(STORED_HW)
    data = usual
    for tag, own in (((0x0008, 0x0016), b"UI"), ((0x0008, 0x0018), b"UI"), ((0x0020, 0x000D), b"UI"),
                     ((0x0020, 0x000E), b"UI"), ((0x0028, 0x0002), b"US")):  # fmt: skip
        data = with_vr(data, tag, odd(vr, own))
    assert row(data) == row(usual)


@pytest.mark.parametrize("vr", ODD)
@pytest.mark.parametrize(
    ("element", "own"), [(0x0001, b"OB"), (0x0002, b"UI"), (0x0003, b"UI"), (0x0010, b"UI"), (0x0012, b"UI")]
)
def test_in_the_file_meta_too(element: int, own: bytes, vr: bytes | None) -> None:
    usual = image(STORED_HW)
    assert row(with_vr(usual, (0x0002, element), odd(vr, own))) == row(usual)


def without_uids(fill: bytes | None) -> bytes:
    """A file whose data set has ``fill`` where SOP class and instance UID stand; None: no element."""
    data = image(STORED_HW)
    for element in (0x0016, 0x0018):
        head = struct.pack("<HH2s", 0x0008, element, b"UI")
        at = data.index(head, 132)
        (length,) = struct.unpack_from("<H", data, at + 6)
        value = b"" if not fill else fill * (length // len(fill))
        new = b"" if fill is None else head + struct.pack("<H", len(value)) + value
        data = data[:at] + new + data[at + 8 + length :]
    return data


@pytest.mark.parametrize("fill", [None, b"", b"  ", b"\0\0"])
def test_uids_come_from_the_file_meta_where_the_data_set_has_none(fill: bytes | None) -> None:
    data = without_uids(fill)
    found = row(data)
    assert (found["sop_class_uid"], found["sop_instance_uid"]) == ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4")
    assert deidentified(data, SALT).sop_instance_uid == deidentified(image(STORED_HW), SALT).sop_instance_uid
    with pytest.raises(HeaderError):
        row(meta(EXPLICIT) + data_set_of(data))


def test_what_the_data_set_says_goes_before_the_meta() -> None:
    assert row(image(STORED_HW, SOPInstanceUID="1.9.9"))["sop_instance_uid"] == "1.9.9"


GROUPS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")


@pytest.mark.parametrize("keyword", GROUPS)
@pytest.mark.parametrize("patient", ["", None])
def test_instances_without_a_patient_are_one_where_a_uid_says_so(keyword: str, patient: str | None) -> None:
    def key(instance: str, group: str) -> str:
        none = dict.fromkeys(GROUPS, "")
        data = image(STORED_HW, PatientID=patient, SOPInstanceUID=instance, **(none | {keyword: group}))
        return patient_key(read(data).header, SALT)

    assert key("1.1", "1.5") == key("1.2", "1.5") != key("1.1", "1.6")
    for groups_nobody in ("", "UNKNOWN", "1.2.840.10008.1.4.1.1"):
        assert key("1.1", groups_nobody) != key("1.2", groups_nobody)


def test_names_and_birth_dates_merge_nobody() -> None:
    same = {"PatientName": "A^B", "PatientBirthDate": "20100101", "PatientID": "", "SeriesInstanceUID": ""}
    keys = {
        patient_key(read(image(STORED_HW, SOPInstanceUID=uid, StudyInstanceUID="", **same)).header, SALT)
        for uid in ("1.1", "1.2")
    }
    assert len(keys) == 2


def unknown_sequence(order: str, items: str) -> bytes:
    """(0009,1001), UN of undefined length in a data set of one byte order, with an item in maybe another."""
    value = struct.pack(items + "HHI", 0x0008, 0x0060, 2) + b"CT"
    return (
        struct.pack(order + "HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
        + struct.pack(items + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + value
        + struct.pack(items + "HHI", 0xFFFE, 0xE00D, 0) + struct.pack(items + "HHI", 0xFFFE, 0xE0DD, 0)
    )  # fmt: skip


@pytest.mark.parametrize(("syntax", "order"), [(BIG_ENDIAN, ">"), (EXPLICIT, "<")])
@pytest.mark.parametrize("items", ["<", ">"])
def test_unknown_of_undefined_length(syntax: str, order: str, items: str) -> None:
    if (order, items) == ("<", ">"):
        pytest.skip("no writer makes big endian items in a little endian data set")
    usual = image(STORED_HW, syntax=syntax)
    at = usual.index(struct.pack(order + "HH", 0x0010, 0x0020), 132)
    assert row(usual[:at] + unknown_sequence(order, items) + usual[at:]) == row(usual)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_dicm_by_chance_in_a_bare_data_set(syntax: str) -> None:
    bare = data_set_of(image(STORED_HW, syntax=syntax, Manufacturer="M" * 200))
    data = bare[:128] + b"DICM" + bare[132:]
    assert b"M" * 20 in bare[100:128] + bare[132:160]
    assert row(data)["sop_instance_uid"] == "1.2.3.4"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_preamble_without_a_meta_group(syntax: str) -> None:
    bare = data_set_of(image(STORED_HW, syntax=syntax))
    assert row(bytes(128) + b"DICM" + bare)["sop_instance_uid"] == "1.2.3.4"


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_odd_files_that_are_cut_end_as_typed_errors(cut: int) -> None:
    data = with_vr(with_vr(image(STORED_HW), (0x0002, 0x0010), b"??"), (0x0008, 0x0018), b"\0\0")
    with pytest.raises(InstanceError):
        row(data[: len(data) - 1500 + cut * 3 if cut else 100])
