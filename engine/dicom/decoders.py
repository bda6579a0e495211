"""Transfer syntax -> decoder, one line each, chosen by measured speed among permissive licences.

A decoder turns one frame's code stream into stored values; signs and unused bits are the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.errors import PixelDecodeError, UnsupportedSyntaxError

Array = NDArray[Any]


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
    if facts.bits_allocated not in (8, 16, 32):
        raise PixelDecodeError(f"{facts.bits_allocated} bits per stored value are not supported")
    if len(stream) < count * facts.dtype.itemsize:
        raise PixelDecodeError("the pixel data is shorter than Rows x Columns")
    return np.frombuffer(stream, facts.dtype, count).reshape(facts.rows, facts.columns)


def _rle(stream: memoryview, facts: FrameFacts) -> Array:
    dtype = facts.dtype.newbyteorder("=")
    flat = np.frombuffer(imagecodecs.dicomrle_decode(bytes(stream), dtype), dtype)
    return flat[: facts.rows * facts.columns].reshape(facts.rows, facts.columns)


def _jpeg(stream: memoryview, facts: FrameFacts) -> Array:
    decoded: Array = imagecodecs.jpeg8_decode(stream)
    return decoded


def _jpeg_lossless(stream: memoryview, facts: FrameFacts) -> Array:
    decoded: Array = imagecodecs.ljpeg_decode(stream)
    return decoded


def _jpeg_ls(stream: memoryview, facts: FrameFacts) -> Array:
    decoded: Array = imagecodecs.jpegls_decode(stream)
    return decoded


def _jpeg_2000(stream: memoryview, facts: FrameFacts) -> Array:
    decoded: Array = imagecodecs.jpeg2k_decode(stream)
    return decoded


DECODERS: dict[str, Decoder] = {
    "1.2.840.10008.1.2": Decoder("implicit little endian", None, _native),
    "1.2.840.10008.1.2.1": Decoder("explicit little endian", None, _native),
    "1.2.840.10008.1.2.1.99": Decoder("deflated explicit little endian", None, _native),
    "1.2.840.10008.1.2.2": Decoder("explicit big endian", None, _native),
    "1.2.840.10008.1.2.5": Decoder("RLE", "DICOMRLE", _rle),
    "1.2.840.10008.1.2.4.50": Decoder("JPEG baseline", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.51": Decoder("JPEG extended", "JPEG8", _jpeg),
    "1.2.840.10008.1.2.4.57": Decoder("JPEG lossless", "LJPEG", _jpeg_lossless),
    "1.2.840.10008.1.2.4.70": Decoder("JPEG lossless, first-order", "LJPEG", _jpeg_lossless),
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
        PixelDecodeError: the codec refused the stream, or gave another shape than the header says.
    """
    decoder = require_decoder(transfer_syntax_uid)
    try:
        stored = decoder.decode(stream, facts)
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
        raise PixelDecodeError(f"{decoder.name}: the code stream cannot be decoded ({type(error).__name__})") from error
    if stored.shape != (facts.rows, facts.columns):
        raise PixelDecodeError(
            f"{decoder.name}: decoded shape {stored.shape} is not Rows x Columns ({facts.rows}, {facts.columns})"
        )
    return stored
