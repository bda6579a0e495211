"""The guarded door: caps before memory, careful reading of odd files, a typed end for every cut one."""

from __future__ import annotations

import contextlib
import logging
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from engine.dicom import header as elements
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import stored_values
from engine.dicom.write import DX_FOR_PRESENTATION, ENCODERS, Facts, Stored, uid_from, write_instance
from engine.errors import (
    EmptyFileError,
    FilteredError,
    InstanceError,
    NotDicomError,
    OverLimitError,
    SopClassFilteredError,
)
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_LS,
    LOSSLESS,
    RLE,
    data_set_of,
    deflated,
    image,
    meta,
    picture,
    rle_frame,
)
from tests.fixtures.prepared import prepare

SALT = b"s" * 32
RULE = InputRule(sop_classes=(DX_FOR_PRESENTATION,), view=View(size_HW=(112, 112)))


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
        prepare(data, RULE, SALT)
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
    for data in (b"PK\x03\x04" + bytes(400), bytes(400)):
        with pytest.raises(NotDicomError):
            parse(data, elements.TAGS, Limits())


def test_missing_preamble_and_missing_meta_are_read(tmp_path: Path) -> None:
    data = film(tmp_path)
    whole = prepare(data, RULE, SALT)
    without_preamble = prepare(data[132:], RULE, SALT)
    assert np.array_equal(whole.image_HW, without_preamble.image_HW)
    meta = pydicom.dcmread(tmp_path / "x").file_meta.FileMetaInformationGroupLength
    bare = prepare(data[132 + 12 + meta :], RULE, SALT)
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


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (RLE, None),
        (JPEG, imagecodecs.jpeg8_encode),
        (LOSSLESS, lambda stored: imagecodecs.ljpeg_encode(stored, bitspersample=8)),
        (JPEG_LS, imagecodecs.jpegls_encode),
        (DEFLATED, None),
        (IMPLICIT, None),
        (BIG_ENDIAN, None),
    ],
)
def test_a_file_cut_at_every_97_bytes_is_typed_or_whole(
    syntax: str, frame: Callable[[Stored], bytes] | None
) -> None:
    stored_HW = picture((30, 40), 8)
    data = image(stored_HW, frame=frame(stored_HW), syntax=syntax) if frame else image(stored_HW)
    if syntax == DEFLATED:
        data = deflated(data_set_of(data))
    elif syntax in {IMPLICIT, BIG_ENDIAN}:
        data = image(stored_HW, syntax=syntax)
    elif syntax == RLE:
        data = image(stored_HW, frame=rle_frame(stored_HW), syntax=RLE)
    whole = prepare(data, RULE, SALT)
    for length in [*range(1, len(data), 97), *range(len(data) - 40, len(data))]:
        with contextlib.suppress(InstanceError, FilteredError):
            part = prepare(data[:length], RULE, SALT)
            assert np.array_equal(part.image_HW, whole.image_HW)


def test_a_photograph_in_a_dicom_coat_is_filtered() -> None:
    red = np.zeros((8, 3 * 8), np.uint8)
    red[:, ::3] = 200
    data = image(
        red, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0, Columns=8,
        BitsStored=8, HighBit=7,
    )  # fmt: skip
    assert end_of(data) == "not_grayscale"


def test_no_photometric_interpretation_is_no_photograph() -> None:
    assert end_of(image(picture(), PhotometricInterpretation=None)) == "bad_header"


def test_a_dicomdir_is_filtered_not_quarantined() -> None:
    """Every disk from a hospital has one."""
    path = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    assert isinstance(path, str)
    with pytest.raises(SopClassFilteredError, match="DICOMDIR"):
        parse(Path(path).read_bytes(), elements.TAGS, Limits())


@pytest.mark.parametrize("stated", [IMPLICIT, EXPLICIT, "", "1.2.3.4"])
@pytest.mark.parametrize("true", [IMPLICIT, EXPLICIT])
def test_a_data_set_is_read_as_it_is_not_as_it_says(stated: str, true: str) -> None:
    """Both files of one image; the pixel element is found whichever way it is written."""
    data_set = parse(meta(stated) + data_set_of(image(picture(), syntax=true)), elements.TAGS, Limits())
    assert data_set.pixel_value is not None
    assert bytes(data_set.pixel_value) == picture().tobytes()
    assert elements.integer(data_set.header, "Rows") == 24
    assert data_set.transfer_syntax_uid == stated or not stated


def test_a_missing_transfer_syntax_and_a_wrong_group_length_are_forgiven() -> None:
    data = bytearray(image(picture()))
    data[140:144] = (999_999).to_bytes(4, "little")
    assert end_of(bytes(data)) == "ok"


@pytest.mark.parametrize("length", [b"\x01\0", b"\x03\0", b"\xff\xff"])
def test_an_element_of_a_wrong_length_is_typed(length: bytes) -> None:
    """pydicom has errors of its own that are no ValueError."""
    rows = b"\x28\0\x10\0US"
    data = image(picture()).replace(rows + b"\2\0", rows + length)
    assert end_of(data) != "ok"


def test_nothing_is_said_while_reading(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """pydicom's warnings and log quote values, and these may be a patient's."""
    data = image(picture(), PatientName="Canary^Name", PatientID="X" * 4, NumberOfFrames=1)
    data = data.replace(b"X" * 4, b"\xff\x1b$C")
    with caplog.at_level(logging.DEBUG):
        assert end_of(data) == "ok"
        assert end_of(data.replace(b"IS\2\0001 ", b"IS\2\0001A")) == "bad_header"
    assert caplog.text == ""
    assert "".join(capfd.readouterr()) == ""


def test_a_deflated_data_set_may_fill_the_cap_but_not_pass_it() -> None:
    data_set = data_set_of(image(picture()))
    data = deflated(data_set)
    assert parse(data, elements.TAGS, Limits(inflated_bytes=len(data_set))).pixel_value is not None
    with pytest.raises(OverLimitError, match="grows beyond the cap"):
        parse(data, elements.TAGS, Limits(inflated_bytes=len(data_set) - 1))
    assert parse(data[:-9], elements.TAGS, Limits()).is_truncated


def fragments(*parts: bytes, has_end: bool = True) -> bytes:
    items = b"".join(b"\xfe\xff\0\xe0" + len(part).to_bytes(4, "little") + part for part in parts)
    return items + (b"\xfe\xff\xdd\xe0\0\0\0\0" if has_end else b"")


def encapsulated(pixel_value: bytes) -> bytes:
    """A JPEG-LS file with that pixel value."""
    data = image(picture(), frame=b"FRAME!", syntax=JPEG_LS)
    element = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    return data[: data.index(element) + len(element)] + pixel_value


def test_a_frame_may_lie_in_many_fragments() -> None:
    stream = bytes(imagecodecs.jpegls_encode(picture()))
    stream += b"\0" * (len(stream) % 2)
    split = [stream[i : i + 100] for i in range(0, len(stream), 100)]
    for pixel_value in (
        fragments(b"", *split),
        fragments(b"\0" * 4, *split),
        fragments(b"", *split, has_end=False),
    ):
        data_set = parse(encapsulated(pixel_value), elements.TAGS, Limits())
        assert np.array_equal(stored_values(data_set, Limits()), picture())


@pytest.mark.parametrize(
    ("pixel_value", "reason"),
    [
        (b"", "truncated"),
        (fragments(), "truncated"),
        (fragments(b""), "truncated"),
        (fragments(b"", b""), "truncated"),
        (fragments(b"", b"FRAME!")[:-12], "truncated"),
        (fragments(b"", b"FRAME!"), "pixel_decode"),
        (b"something else", "bad_header"),
    ],
)
def test_encapsulated_pixels_without_a_frame_are_typed(pixel_value: bytes, reason: str) -> None:
    assert end_of(encapsulated(pixel_value)) == reason
