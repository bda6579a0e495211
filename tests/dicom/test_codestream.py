"""What code streams say of themselves, and what is refused before a codec sees it."""

from __future__ import annotations

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from engine.dicom.codestream import jpeg_facts, require_sound_jpeg
from engine.dicom.jpeg_2000 import Jpeg2000Facts, bare_stream, jpeg_2000_facts, require_whole
from engine.errors import PixelDecodeError, TruncatedError
from tests.fixtures.dicom_fixture import picture


def jpeg_2000(shape: tuple[int, int] = (70, 50), bits: int = 12, **options: object) -> bytes:
    settings = {"codecformat": "J2K", "reversible": True, "level": 0, "bitspersample": bits}
    return bytes(imagecodecs.jpeg2k_encode(picture(shape, bits), **settings | options))


def changed(stream: bytes, place: int, value: bytes) -> bytes:
    return stream[:place] + value + stream[place + len(value) :]


def tile_part(tile: int, body: bytes, number: int = 0, of: int = 1, length: int | None = None) -> bytes:
    own = 12 + len(body) if length is None else length
    return b"\xff\x90" + struct.pack(">HHIBB", 10, tile, own, number, of) + body


def test_the_header_of_jpeg_2000_is_read() -> None:
    facts = jpeg_2000_facts(jpeg_2000())
    assert (facts.rows, facts.columns, facts.samples, facts.bits) == (70, 50, 1, 12)
    assert (facts.is_signed, facts.num_tiles) == (False, 1)


@pytest.mark.parametrize("levels", [0, 3, 5])
def test_levels_and_tiles_are_read(levels: int) -> None:
    file = BytesIO()
    settings = {"no_jp2": True, "num_resolutions": levels + 1, "tile_size": (64, 64)}
    Image.fromarray(picture((130, 70), 8)).save(file, "JPEG2000", **settings)
    facts = jpeg_2000_facts(file.getvalue())
    assert (facts.num_levels, facts.num_tiles) == (levels, 6)
    require_whole(file.getvalue(), facts)


def test_signs_are_read() -> None:
    signed = imagecodecs.jpeg2k_encode(np.full((64, 64), -5, np.int16), codecformat="J2K", level=50)
    facts = jpeg_2000_facts(bytes(signed))
    assert (facts.is_signed, facts.bits) == (True, 16)


def test_the_stream_within_a_jp2_file_is_found() -> None:
    inner = bare_stream(jpeg_2000(codecformat="JP2"))
    assert inner.startswith(b"\xff\x4f\xff\x51")
    require_whole(inner, jpeg_2000_facts(inner))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (8, struct.pack(">I", 0)), (16, struct.pack(">I", 50)), (24, struct.pack(">I", 0)),
        (24, struct.pack(">II", 1, 1)), (32, struct.pack(">I", 60)), (40, struct.pack(">H", 0)),
        (40, struct.pack(">H", 16384)), (43, b"\2"), (44, b"\0"), (47, b"\0\1"), (45, b"\x12"), (54, b"\x40"),
    ],
)  # fmt: skip
def test_headers_without_sense_are_refused(place: int, value: bytes) -> None:
    """Sizes, offsets, 3,500 tiles of one pixel and more, no or too many components, subsampling, levels."""
    stream = changed(jpeg_2000((90, 50)), place, value)
    with pytest.raises((PixelDecodeError, TruncatedError)):
        jpeg_2000_facts(stream)


def test_components_that_differ_are_refused() -> None:
    colour = bytes(imagecodecs.jpeg2k_encode(np.zeros((32, 32, 3), np.uint8), codecformat="J2K", level=0))
    assert jpeg_2000_facts(colour).samples == 3
    with pytest.raises(PixelDecodeError, match="differ in size or precision"):
        jpeg_2000_facts(changed(colour, 46, b"\2"))


def test_an_image_with_an_offset_is_not_reduced() -> None:
    stream = jpeg_2000((90, 50))
    moved = changed(changed(stream, 8, struct.pack(">I", 51)), 16, struct.pack(">I", 1))
    facts = jpeg_2000_facts(moved)
    assert (facts.columns, facts.num_levels) == (50, 0)


HEAD = Jpeg2000Facts(8, 8, 1, 8, is_signed=False, num_levels=0, num_tiles=2, body_at=0)


@pytest.mark.parametrize(
    "body",
    [
        tile_part(0, b"12") + tile_part(1, b"12"),
        tile_part(1, b"12") + tile_part(0, b"12") + b"\xff\xd9",
        tile_part(0, b"1", 0, 2) + tile_part(1, b"12") + tile_part(0, b"2", 1, 2) + b"\xff\xd9\0",
        tile_part(0, b"1", 0, 0) + tile_part(1, b"12", length=0) + b"\xff\xd9",
    ],
)
def test_whole_streams_pass(body: bytes) -> None:
    require_whole(body, HEAD)


@pytest.mark.parametrize(
    "body",
    [
        b"", tile_part(0, b"12"), tile_part(0, b"12") + b"\xff\xd9",
        tile_part(0, b"12") + tile_part(1, b"12")[:-1],
        tile_part(0, b"12") + tile_part(1, b"12")[:7], tile_part(0, b"1", 0, 2) + tile_part(1, b"12"),
        tile_part(0, b"12") + tile_part(1, b"12", length=0),
    ],
)  # fmt: skip
def test_missing_parts_are_said(body: bytes) -> None:
    with pytest.raises(TruncatedError):
        require_whole(body, HEAD)


@pytest.mark.parametrize("body", [tile_part(2, b""), tile_part(0, b"", length=1), tile_part(0, b"") * 70_000])
def test_tile_parts_without_sense_are_refused(body: bytes) -> None:
    with pytest.raises(PixelDecodeError, match="tiles have no sense"):
        require_whole(body, HEAD)


def test_the_header_of_jpeg_is_read() -> None:
    facts = jpeg_facts(bytes(imagecodecs.jpeg8_encode(picture((30, 20), 12), bitspersample=12)))
    assert (facts.rows, facts.columns, facts.samples, facts.bits, facts.is_dct) == (30, 20, 1, 12, True)
    assert not jpeg_facts(bytes(imagecodecs.ljpeg_encode(picture((30, 20), 8)))).is_dct
    assert jpeg_facts(bytes(imagecodecs.jpegls_encode(picture((30, 20), 16)))).bits == 16


def test_more_scans_than_a_picture_has_are_refused() -> None:
    stream = bytes(imagecodecs.jpeg8_encode(picture((30, 20), 8)))
    require_sound_jpeg(stream, is_dct=True)
    scan = stream[stream.index(b"\xff\xda") : -2]
    with pytest.raises(PixelDecodeError, match="scans"):
        require_sound_jpeg(stream[:-2] + scan * 600 + b"\xff\xd9", is_dct=True)
    with pytest.raises(TruncatedError):
        require_sound_jpeg(stream[:-2], is_dct=True)


@pytest.mark.parametrize(
    ("segment", "is_said"),
    [(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", True), (b"\xff\xee\0\x0eAdobe\0\x65\0\0\0\0\0", True),
     (b"\xff\xe0\0\x08JFXX\0\x10", False), (b"\xff\xee\0\x0cAdobe\0\0\0\0\0", False)],
)  # fmt: skip
def test_colour_is_said_by_the_segments_that_libjpeg_takes(segment: bytes, *, is_said: bool) -> None:
    """Some writers' Adobe segments are too short, and tell the codec nothing."""
    frame = b"\xff\xd8" + segment + b"\xff\xc0\0\x11\x08" + bytes(15)
    assert jpeg_facts(frame).says_colour is is_said
