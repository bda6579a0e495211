"""One frame of many: bare, packed and encapsulated ones, and what functional groups say of each."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.dicom.functional_groups import of_frame
from engine.dicom.header import TAGS, spacing
from engine.dicom.parse import DataSet, Limits, parse
from engine.dicom.pixel_element import native_frame
from engine.dicom.pixels import display_values, read_frame, stored_values
from engine.errors import HeaderError, TruncatedError
from tests.fixtures.dicom_fixture import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_LS,
    header,
    in_words,
    item,
    picture,
    written,
)

FRAMES = [picture((6, 5), 12) // (n + 1) for n in range(3)]


def parsed(data: bytes) -> DataSet:
    return parse(data, TAGS, Limits())


def native(pixels: bytes, syntax: str = EXPLICIT, **changes: Any) -> DataSet:
    data_set = header(**{"Rows": 6, "Columns": 5, "NumberOfFrames": 3} | changes)
    data_set.add_new(0x7FE00010, "OW", pixels + b"\0" * (len(pixels) % 2))
    return parsed(written(data_set, syntax))


def fragment(value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return b"\xfe\xff\0\xe0" + len(value).to_bytes(4, "little") + value


def encapsulated(
    table: list[int], fragments: list[bytes], *, syntax: str = JPEG_LS, **changes: Any
) -> DataSet:
    data_set = header(**{"Rows": 6, "Columns": 5, "NumberOfFrames": 3} | changes)
    value = b"".join(fragment(part) for part in (struct.pack(f"<{len(table)}I", *table), *fragments))
    data_set.add_new(0x7FE00010, "OB", value)
    data_set["PixelData"].is_undefined_length = True
    return parsed(written(data_set, syntax))


def streams() -> list[bytes]:
    return [bytes(imagecodecs.jpegls_encode(frame)) for frame in FRAMES]


def offsets(parts: list[bytes]) -> list[int]:
    sizes = [8 + len(part) + len(part) % 2 for part in parts]
    return [sum(sizes[:n]) for n in range(len(parts))]


def assert_frames(data_set: DataSet) -> None:
    for number, expected in enumerate(FRAMES):
        assert np.array_equal(stored_values(data_set, Limits(), frame=number), expected)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_bare_frames_lie_one_behind_the_other(syntax: str) -> None:
    stacked = np.stack(FRAMES)
    assert_frames(native((stacked.byteswap() if syntax == BIG_ENDIAN else stacked).tobytes(), syntax))


def test_a_frame_beyond_the_pixel_data_is_cut() -> None:
    data_set = native(np.stack(FRAMES[:2]).tobytes())
    assert np.array_equal(stored_values(data_set, Limits(), frame=1), FRAMES[1])
    with pytest.raises(TruncatedError):
        stored_values(data_set, Limits(), frame=2)
    with pytest.raises(HeaderError):
        stored_values(data_set, Limits(), frame=3)


def test_frames_of_single_bits_need_not_begin_at_a_byte() -> None:
    """30 pixels a frame: the second begins at bit 30, the least significant bit of a byte comes first."""
    bits = np.random.default_rng(0).integers(0, 2, (3, 6, 5)).astype(np.uint8)
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    data_set = native(packed, BitsAllocated=1, BitsStored=1, HighBit=0)
    for number in range(3):
        assert np.array_equal(stored_values(data_set, Limits(), frame=number), bits[number])
        assert np.array_equal(display_values(data_set, Limits(), frame=number), bits[number])
    with pytest.raises(TruncatedError):
        stored_values(native(packed[:-4], BitsAllocated=1, BitsStored=1, HighBit=0), Limits(), frame=2)


def test_frames_are_found_by_either_table_or_without_one() -> None:
    whole = streams()
    split = [half for part in whole for half in (part[:40], part[40:])]
    firsts = offsets(split)[::2]
    wide = struct.pack("<3Q", *firsts)
    for data_set in (
        encapsulated(offsets(whole), whole),
        encapsulated([], whole),
        encapsulated(firsts, split),
        encapsulated([], split),
        encapsulated([0, 3, 7], split),
        encapsulated([], split, ExtendedOffsetTable=wide, ExtendedOffsetTableLengths=wide),
    ):
        assert_frames(data_set)


def test_fragments_that_no_one_can_tell_apart_are_refused() -> None:
    with pytest.raises(HeaderError, match="cannot be told apart"):
        stored_values(encapsulated([], [*streams(), *streams()]), Limits())


def enhanced(pixels: NDArray[Any], syntax: str) -> DataSet:
    """Frame n shows stored 0 to 50 (n + 1) by its window, and has a spacing of (n + 1) / 10 mm."""
    per_frame = [
        item(
            FrameVOILUTSequence=[item(WindowCenter=50.5 * (n + 1), WindowWidth=100 * (n + 1) + 1)],
            PixelMeasuresSequence=[item(PixelSpacing=[(n + 1) / 10, (n + 1) / 10])],
        )
        for n in range(3)
    ]
    shared = item(
        PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=0)],
        PixelMeasuresSequence=[item(PixelSpacing=[9, 9])],
    )
    return native(
        pixels.tobytes(), syntax, SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame, RescaleSlope=77,
    )  # fmt: skip


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_the_groups_say_of_a_frame_is_said_of_it_alone(syntax: str) -> None:
    data_set = enhanced(np.full((3, 6, 5), 50, np.uint16), syntax)
    for number in range(3):
        centre, width = 50.5 * (number + 1), 100 * (number + 1) + 1
        expected = np.clip((50 * 2 - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
        shown = display_values(data_set, Limits(), frame=number)
        assert shown == pytest.approx(np.full((6, 5), expected), abs=1e-5)
        row, column, source = spacing(of_frame(data_set.header, number))
        assert row == column == pytest.approx((number + 1) / 10)
        assert source == "pixel_spacing:unspecified"


def test_groups_that_end_before_the_frame_are_refused() -> None:
    data_set = native(
        np.stack(FRAMES).tobytes(), PerFrameFunctionalGroupsSequence=[item(PixelMeasuresSequence=[])]
    )
    read_frame(data_set, Limits())
    with pytest.raises(HeaderError, match="fewer functional groups"):
        read_frame(data_set, Limits(), frame=1)


def in_bytes(pixels: bytes, vr: str, **changes: Any) -> DataSet:
    """Three big endian frames of at most eight bits a pixel, under either VR that the standard allows."""
    data_set = header(**{"NumberOfFrames": 3, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7} | changes)
    data_set.add_new(0x7FE00010, vr, in_words(pixels, is_swapped=vr == "OW"))
    return parsed(written(data_set, BIG_ENDIAN))


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(6, 5), (5, 5), (1, 1)])
def test_bytes_in_big_endian_words_are_turned_round(shape: tuple[int, int], vr: str) -> None:
    """Of frames of an odd size every second one begins in the middle of a word."""
    frames = np.random.default_rng(3).integers(0, 256, (3, *shape), np.uint8)
    data_set = in_bytes(frames.tobytes(), vr, Rows=shape[0], Columns=shape[1])
    for number in range(3):
        assert np.array_equal(stored_values(data_set, Limits(), frame=number), frames[number])
    cut = in_bytes(frames[:2].tobytes(), vr, Rows=shape[0], Columns=shape[1] * 2)
    with pytest.raises(TruncatedError):
        stored_values(cut, Limits(), frame=2)


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_single_bits_in_big_endian_words(vr: str) -> None:
    bits = np.random.default_rng(4).integers(0, 2, (3, 6, 5), np.uint8)
    packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    sizes = {"Rows": 6, "Columns": 5, "BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    data_set = in_bytes(packed, vr, **sizes)
    for number in range(3):
        assert np.array_equal(stored_values(data_set, Limits(), frame=number), bits[number])


def test_a_lone_last_byte_of_big_endian_words_stays() -> None:
    """An element of an odd length, which no writer should make, ends with half a word."""
    stream = memoryview(b"\2\1\4\3\5")
    assert bytes(native_frame(stream, 0, 40, is_word_swapped=True)[0]) == b"\1\2\3\4\5"
    assert bytes(native_frame(stream, 1, 8, is_word_swapped=True)[0]) == b"\2"


DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


def test_a_delimiter_within_a_code_stream_ends_nothing() -> None:
    """Fragments are walked by their lengths: what looks like the end may be a comment, or coded pixels."""
    streams_2000 = [
        bytes(imagecodecs.jpeg2k_encode(frame, codecformat="J2K", level=0, reversible=True))
        for frame in FRAMES
    ]
    at = streams_2000[0].index(b"\xff\x52")  # COD: a comment may stand before it
    comment = b"\xff\x64" + (4 + len(DELIMITER)).to_bytes(2, "big") + b"\0\0" + DELIMITER
    commented = [stream[:at] + comment + stream[at:] for stream in streams_2000]
    assert_frames(encapsulated(offsets(commented), commented, syntax=JPEG_2000))
    assert_frames(encapsulated([], commented, syntax=JPEG_2000))


@pytest.mark.parametrize("number", [1, 3])
def test_a_second_pixel_element_makes_the_first_one_doubtful(number: int) -> None:
    """A tag occurs once at most in a data set (PS3.5 7.1)."""
    second = b"\xe0\x7f\x10\0OW\0\0\2\0\0\0\1\1"
    data_set = header(Rows=6, Columns=5, NumberOfFrames=number)
    data_set.add_new(0x7FE00010, "OW", np.stack(FRAMES[:number]).tobytes())
    bare = written(data_set)
    assert stored_values(parsed(bare), Limits()).shape == (6, 5)
    with pytest.raises(HeaderError, match="two pixel data elements"):
        parsed(bare + second)
    data_set["PixelData"].value = b"".join(fragment(part) for part in (b"", *streams()[:number]))
    data_set["PixelData"].VR, data_set["PixelData"].is_undefined_length = "OB", True
    coded = written(data_set, JPEG_LS)
    assert stored_values(parsed(coded), Limits()).shape == (6, 5)
    with pytest.raises(HeaderError, match="two pixel data elements"):
        stored_values(parsed(coded + second), Limits())
