"""Transfer syntax -> decoder, one line each, chosen by measured speed among permissive licences.

A decoder turns one frame's code stream into stored values; signs and unused bits are the caller's affair.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.dicom import codestream
from engine.errors import PixelDecodeError, TruncatedError, UnsupportedSyntaxError

Array = NDArray[Any]

_CODEC_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError, struct.error)
_CONTAINER_BITS = (8, 16, 32)
_RLE_HEADER = 64
_RLE_GAIN = 64  # two bytes of a segment give 128 at most
_RLE_SLACK = 256  # a last run may reach beyond the frame


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """What the header says of one frame of stored values."""

    rows: int
    columns: int
    bits_allocated: int
    is_little_endian: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Container of one stored value, in the file's byte order."""
        return np.dtype(f"{'<' if self.is_little_endian else '>'}u{self.bits_allocated // 8}")


@dataclass(frozen=True, slots=True)
class Decoder:
    """How one transfer syntax is decoded; ``codec`` names the imagecodecs codec that must be compiled in."""

    name: str
    codec: str | None
    decode: Callable[[memoryview, FrameFacts], Array]

    @property
    def is_encapsulated(self) -> bool:
        """Whether frames lie in fragments (compressed) or bare in the element."""
        return self.codec is not None

    def available(self) -> bool:
        """Whether the codec is in this build of imagecodecs."""
        return self.codec is None or bool(getattr(imagecodecs, self.codec).available)


def _native(stream: memoryview, facts: FrameFacts) -> Array:
    count = facts.rows * facts.columns
    if len(stream) < count * facts.dtype.itemsize:
        raise PixelDecodeError("the pixel data is shorter than Rows x Columns")
    return np.frombuffer(stream, facts.dtype, count).reshape(facts.rows, facts.columns)


def _rle(stream: memoryview, facts: FrameFacts) -> Array:
    """One PackBits segment for each byte of a stored value, most significant first (PS3.5 G).

    imagecodecs has a codec for the whole frame; it trusts the segment offsets and crashes on wrong ones.
    """
    count, *offsets = struct.unpack_from("<16I", stream)
    width = facts.bits_allocated // 8
    if count != width:
        raise PixelDecodeError(f"RLE: {count} segments, a stored value has {width} bytes")
    ends = [*offsets[1:count], len(stream)]
    size = facts.rows * facts.columns
    stored = np.zeros(size, np.dtype(f"<u{width}"))
    for start, end in zip(offsets[:count], ends, strict=True):
        if not _RLE_HEADER <= start <= end <= len(stream):
            raise PixelDecodeError("RLE: a segment lies outside the frame")
        stored = (stored << 8 if width > 1 else stored) | _packbits(bytes(stream[start:end]), size)
    return stored.reshape(facts.rows, facts.columns)


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


def _jpeg(stream: memoryview, facts: FrameFacts) -> Array:
    """Baseline, extended and lossless: libjpeg-turbo decodes all three, 2 to 16 bits."""
    frame = bytes(stream)
    _require_size(codestream.jpeg_size(frame), facts)
    codestream.require_jpeg_end(frame)
    decoded: Array = imagecodecs.jpeg8_decode(frame)
    return decoded


def _jpeg_ls(stream: memoryview, facts: FrameFacts) -> Array:
    frame = bytes(stream)
    _require_size(codestream.jpeg_size(frame), facts)
    codestream.require_jpeg_end(frame)  # CharLS takes up to minutes to find out by itself
    decoded: Array = imagecodecs.jpegls_decode(frame)
    return decoded


def _jpeg_2000(stream: memoryview, facts: FrameFacts) -> Array:
    bare = codestream.jpeg_2000_stream(bytes(stream))
    _require_size(codestream.jpeg_2000_size(bare), facts)
    decoded: Array = imagecodecs.jpeg2k_decode(bare)
    return decoded


def _require_size(size: codestream.Size, facts: FrameFacts) -> None:
    rows, columns, samples = size
    if (rows, columns, samples) != (facts.rows, facts.columns, 1):
        raise PixelDecodeError(
            f"the code stream is {rows} x {columns} x {samples}, "
            f"Rows x Columns x 1 is {facts.rows} x {facts.columns} x 1"
        )


DECODERS: dict[str, Decoder] = {
    "1.2.840.10008.1.2": Decoder("implicit little endian", None, _native),
    "1.2.840.10008.1.2.1": Decoder("explicit little endian", None, _native),
    "1.2.840.10008.1.2.1.99": Decoder("deflated explicit little endian", None, _native),
    "1.2.840.10008.1.2.2": Decoder("explicit big endian", None, _native),
    "1.2.840.10008.1.2.5": Decoder("RLE", "PACKBITS", _rle),
    "1.2.840.10008.1.2.4.50": Decoder("JPEG baseline", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.51": Decoder("JPEG extended", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.57": Decoder("JPEG lossless", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.70": Decoder("JPEG lossless, first-order", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.80": Decoder("JPEG-LS lossless", "JPEGLS", _jpeg_ls),
    "1.2.840.10008.1.2.4.81": Decoder("JPEG-LS near-lossless", "JPEGLS", _jpeg_ls),
    "1.2.840.10008.1.2.4.90": Decoder("JPEG 2000 lossless", "JPEG2K", _jpeg_2000),
    "1.2.840.10008.1.2.4.91": Decoder("JPEG 2000", "JPEG2K", _jpeg_2000),
}


def require_decoder(transfer_syntax_uid: str) -> Decoder:
    """The decoder of a syntax.

    Raises:
        UnsupportedSyntaxError: no decoder is known, or its codec is not installed.
    """
    decoder = DECODERS.get(transfer_syntax_uid)
    if decoder is None:
        raise UnsupportedSyntaxError(f"no decoder for transfer syntax {transfer_syntax_uid}")
    if not decoder.available():
        raise UnsupportedSyntaxError(
            f"{decoder.name} needs imagecodecs with {decoder.codec}: pip install imagecodecs"
        )
    return decoder


def decode_frame(transfer_syntax_uid: str, stream: memoryview, facts: FrameFacts) -> Array:
    """Stored values [rows, columns] of one frame.

    Raises:
        UnsupportedSyntaxError: no decoder, or its codec is not installed.
        PixelDecodeError: the codec refused the stream, or it has another shape than the header says.
        TruncatedError: the stream ends early.
    """
    decoder = require_decoder(transfer_syntax_uid)
    if facts.bits_allocated not in _CONTAINER_BITS:
        raise PixelDecodeError(f"{facts.bits_allocated} bits per stored value are not supported")
    try:
        stored = decoder.decode(stream, facts)
    except _CODEC_ERRORS as error:
        kind = type(error).__name__
        raise PixelDecodeError(f"{decoder.name}: the code stream cannot be decoded ({kind})") from error
    if stored.shape != (facts.rows, facts.columns):
        raise PixelDecodeError(
            f"{decoder.name}: decoded {stored.shape}, Rows x Columns is ({facts.rows}, {facts.columns})"
        )
    return stored
