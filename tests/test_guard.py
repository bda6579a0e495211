"""The guarded door: caps before memory, careful reading of odd files, a typed end for every cut one."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from engine.dicom import header as elements
from engine.dicom.guard import Limits, parse
from engine.dicom.write import ENCODERS, Facts, uid_from, write_instance
from engine.errors import (
    EmptyFileError,
    FilteredError,
    InstanceError,
    NotDicomError,
    OverLimitError,
)
from engine.instance import prepare
from engine.tasks.hand_age import HAND_AGE

SALT = b"s" * 32


def film(tmp_path: Path, syntax: str = "explicit") -> bytes:
    facts = Facts(
        sop_instance_uid=uid_from("i"), study_instance_uid=uid_from("s"), series_instance_uid=uid_from("r"),
        patient_id="p", patient_sex="F",
    )  # fmt: skip
    y, x = np.mgrid[0:40, 0:30]
    write_instance(tmp_path / "x", (y * 90 + x).astype(np.uint16), facts, syntax=syntax)
    return (tmp_path / "x").read_bytes()


def end_of(data: bytes) -> str:
    """Reason of a typed error, or ``ok``; anything else fails the test."""
    try:
        prepare(data, HAND_AGE.rule, SALT)
    except (InstanceError, FilteredError) as error:
        return error.reason
    return "ok"


@pytest.mark.parametrize("syntax", ENCODERS)
def test_a_file_cut_anywhere_ends_typed(tmp_path: Path, syntax: str) -> None:
    data = film(tmp_path, syntax)
    ends = {end_of(data[:length]) for length in range(0, len(data) - 64, 61)}
    assert "ok" not in ends
    assert {"empty_file", "not_dicom", "truncated"} <= ends
    assert end_of(data) == "ok"


def test_other_kinds_of_file_are_named() -> None:
    with pytest.raises(EmptyFileError):
        parse(b"", elements.TAGS, Limits())
    for data in (
        b"a text file\n" * 40,
        b"\xff\xd8\xff\xe0" + bytes(400),
        b"PK\x03\x04" + bytes(400),
        bytes(400),
    ):
        with pytest.raises(NotDicomError):
            parse(data, elements.TAGS, Limits())


def test_missing_preamble_and_missing_meta_are_read(tmp_path: Path) -> None:
    data = film(tmp_path)
    whole = prepare(data, HAND_AGE.rule, SALT)
    without_preamble = prepare(data[132:], HAND_AGE.rule, SALT)
    assert np.array_equal(whole.image_HW, without_preamble.image_HW)
    meta = pydicom.dcmread(tmp_path / "x").file_meta.FileMetaInformationGroupLength
    bare = prepare(data[132 + 12 + meta :], HAND_AGE.rule, SALT)
    assert np.array_equal(whole.image_HW, bare.image_HW)


def test_a_deflated_bomb_is_stopped_before_it_takes_memory(tmp_path: Path) -> None:
    """64 MiB of zeros deflate to 64 KiB; with a cap of 1 MiB no more than a few MiB are ever held."""
    path = Path(str(pydicom.data.get_testdata_file("image_dfl.dcm")))
    data = path.read_bytes()
    length = pydicom.dcmread(path, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    start = 132 + 12 + length
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = data[:start] + packer.compress(bytes(64 << 20)) + packer.flush()
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(OverLimitError):
            parse(bomb, elements.TAGS, Limits(inflated_bytes=1 << 20))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_huge_claims_are_refused_before_any_allocation(tmp_path: Path) -> None:
    film(tmp_path)
    data_set = pydicom.dcmread(tmp_path / "x")
    data_set.Rows = data_set.Columns = 65535
    data_set.save_as(tmp_path / "huge")
    assert end_of((tmp_path / "huge").read_bytes()) == "over_limit"
    data_set.Rows, data_set.Columns, data_set.NumberOfFrames = 40, 30, 2**31 - 1
    data_set.save_as(tmp_path / "frames")
    assert end_of((tmp_path / "frames").read_bytes()) in {"multi_frame", "over_limit"}


def test_a_file_above_the_cap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverLimitError):
        parse(film(tmp_path), elements.TAGS, Limits(file_bytes=100))
