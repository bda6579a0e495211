"""Frames that lie bare, deflated or run-length encoded: what needs no picture codec."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.dicom.frame import PACKED, FrameFacts
from engine.errors import PixelDecodeError, TruncatedError

Array = NDArray[Any]

_ENDS_EARLY = "the pixel data is shorter than its frame: copy the file again from its source"
_PADDING = 8
_RLE_HEADER = 64
_RLE_GAIN = 64  # two bytes of a segment give 128 at most
_RLE_SLACK = 256  # a last run may reach beyond the frame


def bare(stream: memoryview, facts: FrameFacts) -> Array:
    """Uncompressed stored values (PS3.5 8.1.1), of any planar configuration (PS3.3 C.7.6.3.1.3).

    Raises:
        TruncatedError: fewer bytes than the frame has.
        PixelDecodeError: as ``require_no_more``.
    """
    if len(stream) < facts.num_bytes:
        raise TruncatedError(_ENDS_EARLY)
    require_no_more(stream, facts.num_bytes, facts)
    if facts.bits_allocated == PACKED:
        bits = np.frombuffer(stream, np.uint8, facts.num_bytes)
        end = facts.first_bit + facts.count
        stored = np.unpackbits(bits, bitorder="little", count=end)[facts.first_bit :]
    else:
        stored = np.frombuffer(stream, facts.dtype, facts.count)
    if facts.samples > 1 and facts.planar_configuration == 1:
        planes_SHW = stored.reshape(facts.samples, facts.rows, facts.columns)
        return np.ascontiguousarray(np.moveaxis(planes_SHW, 0, -1))
    return stored.reshape(facts.shape)


def require_no_more(stream: memoryview, num_bytes: int, facts: FrameFacts) -> None:
    """Refuse pixel data that go on after the ``num_bytes`` that the header makes.

    Padding is shorter than a row of pixels, or has one value; what is more is a row that the header does not
    know of, so it says the wrong size, bits or frames.

    Raises:
        PixelDecodeError: they do.
    """
    more = np.frombuffer(stream[num_bytes:], np.uint8)
    row = facts.columns * facts.samples * facts.bits_allocated // 8
    if len(more) >= max(row, _PADDING) and more.min() != more.max():
        raise PixelDecodeError(
            f"the pixel data has {len(stream)} bytes, by the header {num_bytes}: "
            "Rows, Columns, BitsAllocated or NumberOfFrames is wrong"
        )


def deflated(stream: memoryview, facts: FrameFacts) -> Array:
    """A frame deflated by itself (PS3.5 A.4.13), inflated no further than a row beyond the frame.

    Raises:
        TruncatedError, PixelDecodeError.
    """
    try:
        row = -(-facts.num_bytes // facts.rows)
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            stream, facts.num_bytes + max(row, _PADDING)
        )
    except zlib.error as error:
        raise PixelDecodeError("the deflated frame cannot be inflated") from error
    return bare(memoryview(inflated), facts)


def run_length(stream: memoryview, facts: FrameFacts) -> Array:
    """One PackBits segment for each byte of each sample, most significant byte first (PS3.5 G).

    imagecodecs has a codec for the whole frame; it trusts the segment offsets and crashes on wrong ones.

    Raises:
        TruncatedError, PixelDecodeError.
    """
    num_segments, *offsets = struct.unpack_from("<16I", stream)
    width = facts.dtype.itemsize
    if num_segments != width * facts.samples or num_segments > len(offsets):
        raise PixelDecodeError(f"RLE: {num_segments} segments, a pixel has {width * facts.samples} bytes")
    ends = [*offsets[1:num_segments], len(stream)]
    is_packed = facts.bits_allocated == PACKED
    length = facts.num_bytes if is_packed else facts.rows * facts.columns
    decoded = np.empty((length, facts.samples, width), np.uint8)
    for number, (start, end) in enumerate(zip(offsets[:num_segments], ends, strict=True)):
        if not _RLE_HEADER <= start <= end <= len(stream):
            raise PixelDecodeError("RLE: a segment lies outside the frame")
        sample, place = divmod(number, width)
        decoded[:, sample, width - 1 - place] = _packbits(bytes(stream[start:end]), length)
    if is_packed:
        return bare(memoryview(decoded.tobytes()), facts)
    return decoded.reshape(-1).view(f"<u{width}").reshape(facts.shape)


def _packbits(segment: bytes, size: int) -> NDArray[np.uint8]:
    """The first ``size`` bytes of a segment; one byte of padding after it may have any value."""
    if len(segment) * _RLE_GAIN < size:
        raise TruncatedError("RLE: a segment ends early: copy the file again from its source")
    room = bytearray(size + _RLE_SLACK)
    try:
        decoded = imagecodecs.packbits_decode(segment, out=room)
    except RuntimeError:  # the codec's error for any malformed run
        decoded = imagecodecs.packbits_decode(segment[:-1], out=room)
    if len(decoded) < size:
        raise TruncatedError("RLE: a segment ends early: copy the file again from its source")
    return np.frombuffer(decoded, np.uint8, size)
