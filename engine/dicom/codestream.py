"""What a compressed frame says of itself, read before any codec spends memory on it.

A codec allocates what the code stream asks for, not what the header promises: 20 changed bytes can ask for
gigabytes. So the size is read here and compared first.
"""

from __future__ import annotations

import struct

from engine.errors import PixelDecodeError, TruncatedError

Size = tuple[int, int, int]
"""Rows, columns and samples per pixel of a code stream."""

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})
"""SOF0 to SOF15 of ITU-T T.81 (C4, C8 and CC are other markers), and SOF55 of T.87 (JPEG-LS)."""
_END_WINDOW = 64

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_SIZ = struct.Struct(">4I16xH")


def jpeg_size(frame: bytes) -> Size:
    """Size in the frame header of a JPEG or JPEG-LS stream (ITU-T T.81 B.2.2, T.87 C.2.2).

    Raises:
        PixelDecodeError: no JPEG stream, or no frame header before the first scan.
    """
    if frame[:2] != _SOI:
        raise PixelDecodeError("the code stream does not start as JPEG does")
    position = 2
    while position + 10 <= len(frame) and frame[position] == _MARKER:
        kind = frame[position + 1]
        if kind == _MARKER:  # fill byte
            position += 1
            continue
        if kind in _START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", frame, position + 5)
            return rows, columns, samples
        if kind == _START_OF_SCAN:
            break
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    raise PixelDecodeError("the code stream has no frame header")


def require_jpeg_end(frame: bytes) -> None:
    """Refuse a JPEG or JPEG-LS stream without end marker: codecs fill what is missing, and say nothing.

    Raises:
        TruncatedError: the last bytes hold no end marker (padding may follow it).
    """
    if frame.rfind(_EOI, max(len(frame) - _END_WINDOW, 0)) < 0:
        raise TruncatedError("the code stream ends early: copy the file again from its source")


def jpeg_2000_stream(frame: bytes) -> bytes:
    """The bare JPEG 2000 code stream, without the JP2 file that some writers put around it.

    Raises:
        PixelDecodeError: there is none.
    """
    start = frame.find(_SOC_SIZ) if frame.startswith((_SOC_SIZ, _JP2_SIGNATURE)) else -1
    if start < 0:
        raise PixelDecodeError("the code stream does not start as JPEG 2000 does")
    return frame[start:] if start else frame


def jpeg_2000_size(stream: bytes) -> Size:
    """Size in the SIZ marker of a bare JPEG 2000 code stream (ITU-T T.800 A.5.1).

    Raises:
        TruncatedError: the stream ends within the marker.
    """
    if len(stream) < 8 + _SIZ.size:
        raise TruncatedError("the code stream ends early: copy the file again from its source")
    right, bottom, left, top, samples = _SIZ.unpack_from(stream, 8)
    return bottom - top, right - left, samples
