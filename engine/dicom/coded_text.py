"""Text beside the coded pixels: comments and application segments of JPEG, JPEG-LS and JPEG 2000 streams.

Tools write the patient's name there, and no header rule reaches it. It is overwritten with zeros where it
lies: no length changes, so offset tables, fragments and coded pixels stay as they are. What cannot be walked
to its end, or holds a segment of a kind that no standard names, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator

from engine.dicom import pixel_element
from engine.dicom.codestream import ENDS_EARLY
from engine.errors import PixelDecodeError, TruncatedError, UnsupportedSyntaxError

Span = tuple[int, int]

_ROOT = "1.2.840.10008.1.2"
_CODELESS = frozenset({f"{_ROOT}.5", f"{_ROOT}.1.98", f"{_ROOT}.8.1"})
"""RLE, encapsulated uncompressed, deflated frames: nothing but pixels."""
_JPEG = frozenset(f"{_ROOT}.4.{number}" for number in (*range(50, 71), 80, 81))
_JPEG_2000 = frozenset(f"{_ROOT}.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))

_UNKNOWN = "the code stream holds a segment of no known kind, which may be text"
_LENGTH = 2

# ITU-T T.81 table B.1 and T.87 table C.1. Within coded pixels FF is followed by a byte below 80, or by RST.
_SOI, _EOI, _SOS, _COM = b"\xff\xd8", 0xD9, 0xDA, 0xFE
_MARKER = re.compile(rb"\xff+([\x80-\xcf\xd8-\xfe])")
_APPLICATION = range(0xE0, 0xF0)
_SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8} - {0xC8})
_NUMBERS = {0xE0: (b"JFIF\0", 14), 0xE8: (b"mrfx", 5), 0xEE: (b"Adobe", 12)}
"""Segments that say how components become colours: how they begin, and how long their numbers are."""

# ITU-T T.800 table A.2 and T.814.
_SOC_SIZ, _SOT, _SOD, _EOC = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\x93", b"\xff\xd9"
_COM_2000, _SOT_BYTES = 0x64, 12
_SEGMENTS_2000 = frozenset(
    {0x50, 0x51, 0x52, 0x53, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x90}
)


def without_text(transfer_syntax_uid: str, items: memoryview) -> bytes:
    """Offset table and fragments (PS3.5 A.4) with zeros in place of text; as long as before.

    Raises:
        PixelDecodeError, TruncatedError: a code stream cannot be walked to its end.
        UnsupportedSyntaxError: nobody knows here where text would lie.
    """
    if transfer_syntax_uid in _CODELESS:
        return bytes(items)
    is_jpeg = transfer_syntax_uid in _JPEG
    if not is_jpeg and transfer_syntax_uid not in _JPEG_2000:
        raise UnsupportedSyntaxError(f"frames of {transfer_syntax_uid} may hold text that is not known here")
    _, fragments = pixel_element.split_items(items)
    coded = bytearray().join(items[start:end] for start, end in fragments)
    spans = _frames(coded, _SOI, _jpeg_frame) if is_jpeg else _frames(coded, _SOC_SIZ, _jpeg_2000_frame)
    for start, end in spans:
        coded[start:end] = bytes(end - start)
    cleaned, at = bytearray(items), 0
    for start, end in fragments:
        cleaned[start:end] = coded[at : at + end - start]
        at += end - start
    return bytes(cleaned)


def _frames(
    coded: bytearray, begin: bytes, frame: Callable[[bytearray, int], Generator[Span, None, int]]
) -> Iterator[Span]:
    """Spans of text in each frame, and what lies between the end of one and the begin of the next."""
    position, start = 0, coded.find(begin)
    if start != 0:
        raise PixelDecodeError("the pixel data do not begin with a code stream of its transfer syntax")
    while start >= 0:
        yield position, start
        position = yield from frame(coded, start)
        start = coded.find(begin, position)
    yield position, len(coded)


def _jpeg_frame(coded: bytearray, start: int) -> Generator[Span, None, int]:
    position, is_scan = start + len(_SOI), False
    while (found := _MARKER.search(coded, position)) is not None:
        kind, at = found[1][0], found.end()
        if not is_scan and found.start() != position:
            raise PixelDecodeError(_UNKNOWN)
        if kind == _EOI:
            return at
        end = _segment_end(coded, at)
        if kind == _COM or kind in _APPLICATION:
            begin, numbers = _NUMBERS.get(kind, (b"", 0))
            kept = numbers if coded.startswith(begin, at + _LENGTH) else 0
            yield min(at + _LENGTH + kept, end), end
        elif kind not in _SEGMENTS:
            raise PixelDecodeError(_UNKNOWN)
        position, is_scan = end, kind == _SOS
    raise TruncatedError(ENDS_EARLY)


def _jpeg_2000_frame(coded: bytearray, start: int) -> Generator[Span, None, int]:
    position = yield from _header_2000(coded, start + len(_SOC_SIZ) // 2, _SOT)
    while coded.startswith(_SOT, position):
        length = int.from_bytes(coded[position + 6 : position + 10], "big")
        body = yield from _header_2000(coded, position, _SOD)
        following = position + length if length else coded.find(_EOC, body)
        if not max(body, position + _SOT_BYTES) <= following <= len(coded):
            raise TruncatedError(ENDS_EARLY)
        position = following
    if coded.startswith(_EOC, position):
        return position + len(_EOC)
    if any(coded[position : position + len(_EOC)]):
        raise PixelDecodeError(_UNKNOWN)
    return position  # some writers leave the end marker out


def _header_2000(coded: bytearray, position: int, end_marker: bytes) -> Generator[Span, None, int]:
    """Walk the segments of a header; gives where its end marker stands."""
    while not coded.startswith(end_marker, position):
        at = position + len(end_marker)
        if coded[position : position + 1] != b"\xff" or at + _LENGTH > len(coded):
            raise TruncatedError(ENDS_EARLY)
        kind, end = coded[position + 1], _segment_end(coded, at)
        if kind == _COM_2000:
            yield at + _LENGTH, end
        elif kind not in _SEGMENTS_2000:
            raise PixelDecodeError(_UNKNOWN)
        position = end
    return position


def _segment_end(coded: bytearray, at: int) -> int:
    """Where a segment ends whose length field stands at ``at``."""
    length = int.from_bytes(coded[at : at + _LENGTH], "big")
    if length < _LENGTH or at + length > len(coded):
        raise TruncatedError(ENDS_EARLY)
    return at + length
