"""What a JPEG or JPEG-LS frame says of itself, read before any codec spends memory on it.

A codec allocates what the code stream asks for, not what the header promises: 20 changed bytes can ask for
gigabytes. So the size is read here and compared first. ``jpeg_2000`` does the same for its family.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.errors import PixelDecodeError, TruncatedError

Stream = bytes | memoryview
"""A frame as it lies in the file: megabytes that need no copy."""

ENDS_EARLY = "the code stream ends early: copy the file again from its source"

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 16), 0xEE: (b"Adobe", 14)}
"""Marker -> how its segment begins, and the least length field with which libjpeg takes it for one."""
_DCT = frozenset({0xC0, 0xC1, 0xC2})
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})
"""SOF0 to SOF15 of ITU-T T.81 (C4, C8 and CC are other markers), and SOF55 of T.87 (JPEG-LS)."""
_END_WINDOW = 64
_MAX_SCANS = 64  # a progressive picture has about 10; each costs a pass over the whole picture


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What a code stream says of itself."""

    rows: int
    columns: int
    samples: int
    bits: int


@dataclass(frozen=True, slots=True)
class JpegFacts(StreamFacts):
    """Frame header of a JPEG or JPEG-LS stream."""

    is_dct: bool
    """Lossy by cosine transform (SOF0 to SOF2), so a smaller picture can be had."""
    says_colour: bool
    """A JFIF or Adobe marker says whether the components are YBR or RGB."""


def jpeg_facts(frame: Stream) -> JpegFacts:
    """The frame header of a JPEG or JPEG-LS stream (ITU-T T.81 B.2.2, T.87 C.2.2).

    Raises:
        PixelDecodeError: no JPEG stream, or no frame header before the first scan.
    """
    if frame[:2] != _SOI:
        raise PixelDecodeError("the code stream does not start as JPEG does")
    position, says_colour = 2, False
    while position + 10 <= len(frame) and frame[position] == _MARKER:
        kind = frame[position + 1]
        if kind == _MARKER:  # fill byte
            position += 1
            continue
        if kind in _START_OF_FRAME:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return JpegFacts(rows, columns, samples, bits, kind in _DCT, says_colour)
        if kind == _START_OF_SCAN:
            break
        length = int.from_bytes(frame[position + 2 : position + 4], "big")
        begin, least = _COLOUR_SEGMENTS.get(kind, (b"", 1 << 16))
        says_colour = says_colour or (length >= least and frame[position + 4 :][: len(begin)] == begin)
        position += 2 + length
    raise PixelDecodeError("the code stream has no frame header")


def require_sound_jpeg(frame: Stream, *, is_dct: bool) -> None:
    """Refuse a JPEG or JPEG-LS stream without end marker: codecs fill what is missing, and say nothing.

    Only a cosine transform (``is_dct``) is refined in scans, so only there they are counted.

    Raises:
        TruncatedError: the last bytes hold no end marker (padding may follow it).
        PixelDecodeError: more scans than any picture has, each a pass over the whole picture.
    """
    if _EOI not in bytes(frame[-_END_WINDOW:]):
        raise TruncatedError(ENDS_EARLY)
    if is_dct and bytes(frame).count(_SOS) > _MAX_SCANS:  # within a scan FF is never followed by DA
        raise PixelDecodeError(f"the code stream has more than {_MAX_SCANS} scans")
