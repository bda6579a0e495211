"""Text beside coded pixels is overwritten where it lies; the pixels and every length stay."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest

from engine.dicom.coded_text import without_text
from engine.dicom.deidentify import deidentified
from engine.dicom.header import TAGS
from engine.dicom.parse import Limits, parse
from engine.dicom.pixels import stored_values
from engine.errors import InstanceError, PixelDecodeError, TruncatedError, UnsupportedSyntaxError
from tests.fixtures.dicom_fixture import JPEG, JPEG_2000, JPEG_LS, LOSSLESS, RLE, image, picture, rle_frame

MARK = b"QXMARK^Hand"
HTJ2K, JPEG_XL = "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.110"
PICTURE = picture((40, 33), 8)

STREAMS: dict[str, Callable[[], bytes]] = {
    JPEG: lambda: bytes(imagecodecs.jpeg8_encode(PICTURE, level=95)),
    LOSSLESS: lambda: bytes(imagecodecs.jpeg8_encode(PICTURE, lossless=True)),
    JPEG_LS: lambda: bytes(imagecodecs.jpegls_encode(PICTURE)),
    JPEG_2000: lambda: bytes(imagecodecs.jpeg2k_encode(PICTURE, codecformat="J2K", level=0)),
    HTJ2K: lambda: bytes(imagecodecs.htj2k_encode(PICTURE, reversible=True)),
}
IS_2000 = {JPEG_2000, HTJ2K}


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


def marked(syntax: str) -> bytes:
    """The stream with text in every place that the standards leave for it."""
    stream = STREAMS[syntax]()
    if syntax in IS_2000:
        at = stream.index(b"\xff\x52")  # COD
        stream = stream[:at] + segment(0x64, b"\0\1" + MARK) + stream[at:]
        tile = stream.index(b"\xff\x90")
        comment = segment(0x64, b"\0\1" + MARK)
        (length,) = struct.unpack_from(">I", stream, tile + 6)
        head = stream[tile : tile + 6] + struct.pack(">I", length + len(comment) if length else 0)
        return stream[:tile] + head + stream[tile + 10 : tile + 12] + comment + stream[tile + 12 :]
    texts = (
        segment(0xFE, MARK), segment(0xE1, b"Exif\0\0" + MARK), segment(0xE0, b"JFXX\0" + MARK),
        segment(0xE8, b"SPIFF\0" + MARK), segment(0xEE, MARK), b"\xff" + segment(0xED, MARK),
    )  # fmt: skip
    stream = stream[:2] + b"".join(texts) + stream[2:]
    scan = stream.index(b"\xff\xda")
    return stream[:scan] + segment(0xFE, MARK) + stream[scan:]


def item(value: bytes) -> bytes:
    return b"\xfe\xff\0\xe0" + len(value).to_bytes(4, "little") + value


def even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)


@pytest.mark.parametrize("syntax", STREAMS)
def test_text_is_gone_and_pixels_are_the_same(syntax: str) -> None:
    before = image(PICTURE, frame=marked(syntax), syntax=syntax, BitsStored=8, HighBit=7)
    assert before.count(MARK) >= 2
    after = deidentified(before, b"s" * 32).data
    assert MARK not in after
    values = [stored_values(parse(data, TAGS, Limits()), Limits()) for data in (before, after)]
    assert np.array_equal(*values)
    if syntax != JPEG:
        assert np.array_equal(values[0], PICTURE)


@pytest.mark.parametrize("syntax", STREAMS)
def test_no_length_changes_and_a_stream_without_text_stays(syntax: str) -> None:
    whole, plain = even(marked(syntax)), even(STREAMS[syntax]())
    cut = len(whole) // 3 // 2 * 2
    items = item(b"") + item(whole[:cut]) + item(whole[cut:]) + item(plain)
    cleaned = without_text(syntax, memoryview(items))
    assert len(cleaned) == len(items)
    assert MARK not in cleaned
    once = without_text(syntax, memoryview(item(b"") + item(plain)))
    assert cleaned.endswith(once[8:])
    if syntax not in {*IS_2000, JPEG_LS}:  # whose encoders write a comment of their own
        assert once == item(b"") + item(plain)
    assert without_text(syntax, memoryview(cleaned)) == cleaned


@pytest.mark.parametrize("syntax", STREAMS)
def test_what_lies_behind_the_end_of_a_stream_is_gone(syntax: str) -> None:
    stream = STREAMS[syntax]() + b"\0\0" + MARK
    cleaned = without_text(syntax, memoryview(item(b"") + item(even(stream))))
    assert MARK not in cleaned
    assert STREAMS[syntax]()[-40:] in cleaned


def test_numbers_that_say_the_colours_stay() -> None:
    colours = np.stack([PICTURE, PICTURE[::-1], PICTURE[:, ::-1]], axis=-1)
    for outcolorspace in ("YCBCR", "RGB"):
        stream = bytes(imagecodecs.jpeg8_encode(colours, colorspace="RGB", outcolorspace=outcolorspace))
        cleaned = without_text(JPEG, memoryview(item(b"") + item(even(stream))))
        assert cleaned == item(b"") + item(even(stream))
    thumbnail = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\1" + MARK)
    stream = stream[:2] + thumbnail + stream[2:]
    assert MARK not in without_text(JPEG, memoryview(item(b"") + item(even(stream))))


@pytest.mark.parametrize("syntax", STREAMS)
def test_what_cannot_be_walked_is_refused(syntax: str) -> None:
    stream = marked(syntax)
    strange = stream.replace(b"\xff\x52" if syntax in IS_2000 else b"\xff\xfe", b"\xff\xf0")
    for broken, error in (
        (strange, PixelDecodeError),
        (b"\0\0" + stream, PixelDecodeError),
        (stream[: len(stream) // 2], TruncatedError),
    ):
        with pytest.raises(error):
            without_text(syntax, memoryview(item(b"") + item(even(broken))))
    generator = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(stream)
        for place in generator.integers(0, len(stream), 3):
            damaged[place] = generator.integers(0, 256)
        with suppress(InstanceError):
            without_text(syntax, memoryview(item(b"") + item(even(bytes(damaged)))))


def test_frames_of_other_syntaxes_pass_or_are_refused() -> None:
    items = memoryview(item(b"") + item(even(rle_frame(PICTURE))))
    assert without_text(RLE, items) == bytes(items)
    with pytest.raises(UnsupportedSyntaxError):
        without_text(JPEG_XL, items)
