"""One frame out of a pixel data element: bare frames by size, encapsulated ones by their offset tables."""

from __future__ import annotations

import struct

import numpy as np
from pydicom.dataset import Dataset

from engine.dicom.parse import PARSER_ERRORS, quiet
from engine.errors import HeaderError, TruncatedError

_ITEM, _ITEM_TAG, _DELIMITER_TAG = struct.Struct("<II"), 0xE000FFFE, 0xE0DDFFFE
_PIXEL_DATA = b"\xe0\x7f\x10\0"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""How a JPEG or JPEG-LS frame begins, and how a JPEG 2000 frame does."""


def native_frame(
    stream: memoryview, frame: int, frame_bits: int, *, is_word_swapped: bool = False
) -> tuple[memoryview, int]:
    """(Bytes that hold frame ``frame`` (from 0), its first bit in the first of them).

    Frames lie one behind the other without a gap (PS3.5 8.1.1), so those of single bits may begin and end
    within a byte. ``is_word_swapped``: the bytes lie in big endian words though no value is as wide as a word
    (PS3.5 7.3), so each pair of them is turned round; frames of an odd size share a word.

    Raises:
        TruncatedError: the element ends before the frame does.
    """
    first, end = frame * frame_bits, (frame + 1) * frame_bits
    if len(stream) * 8 < end:
        raise TruncatedError("the pixel data is shorter than Rows x Columns x Frames: copy the file again")
    start, stop = first // 8, -(-end // 8)
    if not is_word_swapped:
        return stream[start:stop], first % 8
    even = start - start % 2
    words = np.frombuffer(stream[even : stop + stop % 2], np.uint8).copy()
    pairs = words[: len(words) - len(words) % 2]  # a lone last byte has no other to change places with
    pairs[:] = pairs.reshape(-1, 2)[:, ::-1].reshape(-1)
    return memoryview(words.tobytes())[start - even : stop - even], first % 8


def encapsulated_frame(stream: memoryview, frame: int, frames: int, header: Dataset) -> memoryview:
    """Code stream of frame ``frame`` of ``frames`` (PS3.5 A.4).

    One frame takes all fragments. Of several, the extended or the basic offset table says where each begins;
    without a usable table, one fragment for each frame, or the fragments that begin as a code stream does.

    Raises:
        TruncatedError: a fragment is cut, or there is none. A missing sequence delimiter is forgiven.
        HeaderError: no way to tell the frames apart, or more of them than the header says.
    """
    table, fragments = split_items(stream)
    if not any(end > start for start, end in fragments):
        raise TruncatedError("the encapsulated pixel data holds no frame: copy the file again")
    if frames == 1:
        if sum(bytes(stream[start : start + 4]).startswith(_STARTS) for start, _ in fragments) > 1:
            raise HeaderError("the fragments begin more frames than NumberOfFrames says")
        return _joined(stream, fragments)
    groups = (
        _by_offsets(_offsets(_extended(header), 8), fragments, frames)
        or _by_offsets(_offsets(table, 4), fragments, frames)
        or _by_starts(stream, fragments, frames)
    )
    if groups is None:
        raise HeaderError("the fragments cannot be told apart as frames: NumberOfFrames or a table is wrong")
    return _joined(stream, groups[frame])


Span = tuple[int, int]


def split_items(stream: memoryview) -> tuple[memoryview, list[Span]]:
    """The basic offset table's value, and the fragments after it as (start, end).

    Raises:
        TruncatedError, HeaderError: the items cannot be walked, or a second pixel element follows them.
    """
    items: list[Span] = []
    position = 0
    while position + _ITEM.size <= len(stream):
        tag, length = _ITEM.unpack_from(stream, position)
        if tag == _DELIMITER_TAG:
            if bytes(stream[position + _ITEM.size :][: len(_PIXEL_DATA)]) == _PIXEL_DATA:
                raise HeaderError("two pixel data elements: nobody knows which is the image")
            break
        if tag != _ITEM_TAG:
            raise HeaderError("the encapsulated pixel data holds something else than fragments")
        position += _ITEM.size + length
        if position > len(stream):
            raise TruncatedError("the encapsulated pixel data ends early: copy the file again")
        items.append((position - length, position))
    if not items:
        raise TruncatedError("the encapsulated pixel data holds no frame: copy the file again")
    return stream[items[0][0] : items[0][1]], items[1:]


def _joined(stream: memoryview, fragments: list[Span]) -> memoryview:
    if len(fragments) == 1:
        return stream[fragments[0][0] : fragments[0][1]]
    return memoryview(b"".join(stream[start:end] for start, end in fragments))


def _extended(header: Dataset) -> bytes:
    try:
        with quiet():
            return bytes(header.ExtendedOffsetTable)
    except PARSER_ERRORS:
        return b""


def _offsets(table: bytes | memoryview, width: int) -> list[int]:
    return [int(offset) for offset in np.frombuffer(table[: len(table) // width * width], f"<u{width}")]


def _by_offsets(offsets: list[int], fragments: list[Span], frames: int) -> list[list[Span]] | None:
    """Fragments of each frame; offsets count from the first fragment's item tag. None: the table is wrong."""
    if len(offsets) != frames:
        return None
    origin = fragments[0][0] - _ITEM.size
    number_at = {start - _ITEM.size - origin: number for number, (start, _) in enumerate(fragments)}
    firsts = [number_at.get(offset, -1) for offset in offsets]
    if firsts[0] != 0 or any(later <= earlier for earlier, later in zip(firsts, firsts[1:], strict=False)):
        return None
    ends = [*firsts[1:], len(fragments)]
    return [fragments[first:end] for first, end in zip(firsts, ends, strict=True)]


def _by_starts(stream: memoryview, fragments: list[Span], frames: int) -> list[list[Span]] | None:
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    groups: list[list[Span]] = []
    for start, end in fragments:
        if not groups or bytes(stream[start : start + 4]).startswith(_STARTS):
            groups.append([])
        groups[-1].append((start, end))
    return groups if len(groups) == frames else None
