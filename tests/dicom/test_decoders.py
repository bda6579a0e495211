"""A contract over DECODERS: each syntax gives the stored values of a reference, from real bytes."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file

from engine.dicom import decoders
from engine.dicom.decoders import DECODERS, decode_frame, require_decoder
from engine.dicom.frame import FrameFacts
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import stored_values
from engine.dicom.write import ENCODERS, Facts, write_instance
from engine.errors import PixelDecodeError, TruncatedError, UnsupportedSyntaxError
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_12,
    JPEG_2000,
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

Array = NDArray[Any]
LOSSLESS_ANY, JPEG_LS_NEAR, JPEG_2000_LOSSY = (f"1.2.840.10008.1.2.4.{last}" for last in (57, 81, 91))
SPECTRAL, PROGRESSIVE = (f"1.2.840.10008.1.2.4.{last}" for last in (53, 55))
HTJ2K, HTJ2K_RPCL, HTJ2K_ANY = (f"1.2.840.10008.1.2.4.{last}" for last in (201, 202, 203))
ENCAPSULATED, DEFLATED_FRAME = "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"


def jpeg_2000(stored_HW: Array, bits: int, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(stored_HW, bitspersample=bits, **options))


def progressive(stored: Array) -> bytes:
    stream = BytesIO()
    Image.fromarray(stored).save(stream, "JPEG", quality=98, progressive=True)
    return stream.getvalue()


def deflated_frame(stored: Array) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(stored.tobytes()) + deflater.flush()


@dataclass(frozen=True, slots=True)
class Case:
    """A file that a syntax must read as ``expected``, each stored value within ``tolerance``."""

    name: str
    syntax: str
    make: Callable[[], tuple[bytes, Array]]
    tolerance: int = 0


def own(syntax: str, bits: int, encode: Callable[[Array], bytes] | None, tolerance: int = 0) -> Case:
    """A picture of ``bits`` that we know, made by ``encode``."""

    def make() -> tuple[bytes, Array]:
        stored_HW = picture(bits=bits)
        frame = encode(stored_HW) if encode else None
        data = image(stored_HW, frame=frame, syntax=syntax, BitsStored=bits, HighBit=bits - 1)
        return data, stored_HW

    return Case(f"own {bits} bits", syntax, make, tolerance)


def own_deflated() -> tuple[bytes, Array]:
    return deflated(data_set_of(image(picture()))), picture()


def own_deflated_frame() -> tuple[bytes, Array]:
    """pydicom does not write the syntax, so the file meta group is ours."""
    stored_HW = picture()
    data_set = data_set_of(image(stored_HW, frame=deflated_frame(stored_HW), syntax=ENCAPSULATED))
    return meta(DEFLATED_FRAME) + data_set, stored_HW


def pixels_of(name: str) -> Array:
    values: Array = pydicom.dcmread(real(name)).pixel_array
    return values


def real(name: str) -> str:
    """A file inside pydicom's wheel; nothing is downloaded."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return path


def shipped(name: str, syntax: str, reference: str | None = None) -> Case:
    """A file of pydicom's, read by pydicom; or equal to the uncompressed file ``reference``."""
    return Case(name, syntax, lambda: (Path(real(name)).read_bytes(), pixels_of(reference or name)))


CASES = [
    *(own(syntax, bits, None) for syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN) for bits in (8, 12, 16)),
    Case("own 12 bits", DEFLATED, own_deflated),
    *(own(RLE, bits, rle_frame) for bits in (8, 12, 16)),
    own(JPEG, 8, lambda stored: imagecodecs.jpeg8_encode(stored, level=98), 4),
    own(JPEG_12, 8, lambda stored: imagecodecs.jpeg8_encode(stored, level=98), 4),
    own(JPEG_12, 12, lambda stored: imagecodecs.jpeg8_encode(stored, level=98, bitspersample=12), 64),
    *(
        own(syntax, bits, lambda stored, bits=bits: imagecodecs.ljpeg_encode(stored, bitspersample=bits))
        for syntax in (LOSSLESS, LOSSLESS_ANY)
        for bits in (8, 10, 12, 14, 16)
    ),
    *(own(JPEG_LS, bits, imagecodecs.jpegls_encode) for bits in (8, 12, 16)),
    own(JPEG_LS_NEAR, 8, lambda stored: imagecodecs.jpegls_encode(stored, level=3), 3),
    *(
        own(JPEG_2000, bits, lambda s, b=bits: jpeg_2000(s, b, codecformat="J2K", reversible=True, level=0))
        for bits in (8, 10, 12, 14, 16)
    ),
    own(JPEG_2000, 12, lambda s: jpeg_2000(s, 12, codecformat="JP2", reversible=True, level=0)),
    own(JPEG_2000_LOSSY, 12, lambda s: jpeg_2000(s, 12, codecformat="J2K", level=60), 64),
    *(own(syntax, 8, progressive, 4) for syntax in (SPECTRAL, PROGRESSIVE)),
    *(
        own(syntax, bits, lambda stored: imagecodecs.htj2k_encode(stored, reversible=True))
        for syntax in (HTJ2K, HTJ2K_RPCL, HTJ2K_ANY)
        for bits in (8, 12, 16)
    ),
    own(HTJ2K_ANY, 8, lambda stored: imagecodecs.htj2k_encode(stored, level=1 / 256, reversible=False), 4),
    own(ENCAPSULATED, 12, lambda stored: stored.tobytes()),
    Case("own 12 bits", DEFLATED_FRAME, own_deflated_frame),
    shipped("MR_small.dcm", EXPLICIT),
    shipped("MR_small_padded.dcm", EXPLICIT, "MR_small.dcm"),
    shipped("MR_small_implicit.dcm", IMPLICIT, "MR_small.dcm"),
    shipped("rtdose_1frame.dcm", IMPLICIT),
    shipped("MR_small_bigendian.dcm", BIG_ENDIAN, "MR_small.dcm"),
    shipped("image_dfl.dcm", DEFLATED),
    shipped("MR_small_RLE.dcm", RLE, "MR_small.dcm"),
    shipped("rtdose_rle_1frame.dcm", RLE, "rtdose_1frame.dcm"),
    shipped("MR_small_jpeg_ls_lossless.dcm", JPEG_LS, "MR_small.dcm"),
    shipped("MR_small_jp2klossless.dcm", JPEG_2000, "MR_small.dcm"),
    shipped("J2K_pixelrep_mismatch.dcm", JPEG_2000),
    shipped("JPEG2000.dcm", JPEG_2000_LOSSY),
    shipped("693_J2KI.dcm", JPEG_2000_LOSSY),
]

POINTS = {
    ("JPEG-lossy.dcm", JPEG_12): {(420, 140): 244, (230, 120): 95},
    ("JPEGLSNearLossless_08.dcm", JPEG_LS_NEAR): dict(
        zip([(row, 0) for row in range(0, 40, 5)], [255, 125, 65, 30, 15, 5, 5, 0], strict=True)
    ),
    ("JPEGLSNearLossless_16.dcm", JPEG_LS_NEAR): dict(
        zip(
            [(row, 0) for row in range(0, 40, 5)], [65535, 32765, 16385, 4095, 1025, 255, 65, 15], strict=True
        )
    ),
}
"""Stored values at (row, column) that pydicom's tests state for files which it cannot read by itself."""


def decoded(data: bytes, syntax: str) -> Array:
    """What we read; the file must really be of ``syntax``."""
    data_set = parse(data, TAGS, Limits())
    assert data_set.transfer_syntax_uid == syntax
    return stored_values(data_set, Limits())


def test_every_decoder_has_a_case() -> None:
    assert {case.syntax for case in CASES} == set(DECODERS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{DECODERS[case.syntax].name}: {case.name}")
def test_stored_values_are_those_of_the_reference(case: Case) -> None:
    data, expected = case.make()
    values = decoded(data, case.syntax)
    assert values.shape == expected.shape
    mask = (1 << pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).BitsStored) - 1
    difference = (values.astype(np.int64) & mask) - (expected.astype(np.int64) & mask)
    assert np.abs(difference).max() <= case.tolerance


@pytest.mark.parametrize(("name", "syntax"), POINTS)
def test_stored_values_are_those_that_pydicom_states(name: str, syntax: str) -> None:
    values = decoded(Path(real(name)).read_bytes(), syntax)
    assert {place: values[place] for place in POINTS[name, syntax]} == POINTS[name, syntax]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", ENCODERS)
def test_what_we_write_comes_back(tmp_path: Path, syntax: str, bits: int) -> None:
    facts = Facts(
        sop_instance_uid="1.2.3", study_instance_uid="1.2", series_instance_uid="1.2.1", patient_id="p",
        bits_stored=bits,
    )  # fmt: skip
    stored_HW = picture((33, 31), bits)
    write_instance(tmp_path / "f", stored_HW, facts, syntax=syntax)
    read = decoded((tmp_path / "f").read_bytes(), ENCODERS[syntax].transfer_syntax_uid)
    assert np.array_equal(read, stored_HW)


def test_no_decoder_and_no_codec_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedSyntaxError, match=r"no decoder for transfer syntax 1\.2\.3"):
        require_decoder("1.2.3")

    class Absent:
        available = False

    monkeypatch.setattr(decoders.imagecodecs, "JPEGLS", Absent)
    assert not DECODERS[JPEG_LS].available()
    with pytest.raises(UnsupportedSyntaxError, match="pip install imagecodecs"):
        require_decoder(JPEG_LS)


FACTS = FrameFacts(rows=24, columns=19, bits_allocated=16, is_little_endian=True)


@cache
def streams() -> dict[str, bytes]:
    """One code stream of FACTS for each family of codecs."""
    stored_HW = picture()
    return {
        RLE: rle_frame(stored_HW),
        JPEG_12: bytes(imagecodecs.jpeg8_encode(stored_HW, bitspersample=12)),
        LOSSLESS: bytes(imagecodecs.ljpeg_encode(stored_HW, bitspersample=12)),
        JPEG_LS: bytes(imagecodecs.jpegls_encode(stored_HW)),
        JPEG_2000: jpeg_2000(stored_HW, 12, codecformat="J2K", reversible=True, level=0),
    }


@pytest.mark.parametrize("syntax", [RLE, JPEG_12, LOSSLESS, JPEG_LS, JPEG_2000])
def test_a_cut_stream_is_never_half_an_image(syntax: str) -> None:
    """Codecs fill what is missing with grey or zeros and say nothing; one searched for minutes."""
    stream = streams()[syntax]
    whole = decode_frame(syntax, memoryview(stream), FACTS)
    for end in range(len(stream)):
        try:
            part = decode_frame(syntax, memoryview(stream[:end]), FACTS)
        except (PixelDecodeError, TruncatedError):
            continue
        assert np.array_equal(part, whole)


@pytest.mark.parametrize("syntax", [RLE, JPEG_12, LOSSLESS, JPEG_LS, JPEG_2000])
def test_a_scrambled_stream_is_refused_or_keeps_its_shape(syntax: str) -> None:
    stream, rng = streams()[syntax], np.random.default_rng(0)
    for _ in range(200):
        scrambled = bytearray(stream)
        for place in rng.integers(0, len(stream), 4):
            scrambled[place] = rng.integers(0, 256)
        with contextlib.suppress(PixelDecodeError, TruncatedError):
            assert decode_frame(syntax, memoryview(bytes(scrambled)), FACTS).shape == (24, 19)


def changed(stream: bytes, place: int, value: bytes) -> bytes:
    return stream[:place] + value + stream[place + len(value) :]


def huge(syntax: str) -> bytes:
    """The stream, asking for 60,000 x 60,000."""
    stream, side = streams()[syntax], 60_000
    if syntax == JPEG_2000:
        whole = changed(stream, 8, struct.pack(">II", side, side))
        return changed(whole, 24, struct.pack(">II", side, side))  # in one tile
    marker = {JPEG_12: b"\xff\xc1", LOSSLESS: b"\xff\xc3", JPEG_LS: b"\xff\xf7"}[syntax]
    return changed(stream, stream.index(marker) + 5, struct.pack(">HH", side, side))


@pytest.mark.parametrize("syntax", [JPEG_12, LOSSLESS, JPEG_LS, JPEG_2000])
def test_a_stream_that_asks_for_more_than_the_header_says_reaches_no_codec(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for codec in ("jpeg8_decode", "jpegls_decode", "jpeg2k_decode"):
        monkeypatch.setattr(decoders.imagecodecs, codec, lambda stream: pytest.fail("a codec was called"))
    with pytest.raises(PixelDecodeError, match="the code stream is 60000 x 60000 x 1"):
        decode_frame(syntax, memoryview(huge(syntax)), FACTS)


@pytest.mark.parametrize("syntax", [JPEG_12, JPEG_LS, JPEG_2000])
@pytest.mark.parametrize(
    "stream", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xda", b"\xff\x4f\xff\x51", b"text" * 99]
)
def test_what_is_no_stream_is_refused(syntax: str, stream: bytes) -> None:
    with pytest.raises((PixelDecodeError, TruncatedError)):
        decode_frame(syntax, memoryview(stream), FACTS)


def segments(*offsets: int) -> bytes:
    """The RLE stream with another segment table."""
    table = struct.pack("<16I", *offsets, *[0] * (16 - len(offsets)))
    return table + streams()[RLE][64:]


@pytest.mark.parametrize(
    "stream",
    [
        segments(1, 64), segments(3, 64, 70, 80), segments(0), segments(2, 64, 1 << 31), segments(2, 80, 64),
        segments(2, 0, 70), segments(2, 64, 64), segments(4_000_000_000), b"\2\0\0\0",
    ],
)  # fmt: skip
def test_rle_segments_outside_the_frame_are_refused(stream: bytes) -> None:
    """imagecodecs' own decoder of whole RLE frames crashes the process on such."""
    with pytest.raises((PixelDecodeError, TruncatedError)):
        decode_frame(RLE, memoryview(stream), FACTS)


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\x80", b"\xff"])
def test_rle_padding_may_be_any_byte(padding: bytes) -> None:
    values = decode_frame(RLE, memoryview(streams()[RLE] + padding), FACTS)
    assert np.array_equal(values, picture())


@pytest.mark.parametrize("bits", [0, 2, 9, 24, 64, -8, 1 << 20])
def test_odd_containers_are_refused(bits: int) -> None:
    facts = FrameFacts(rows=1, columns=1, bits_allocated=bits, is_little_endian=True)
    for syntax in DECODERS:
        with pytest.raises(PixelDecodeError, match="bits per stored value are not supported"):
            decode_frame(syntax, memoryview(b"\0" * 64), facts)
