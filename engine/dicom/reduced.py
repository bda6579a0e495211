"""Frames decoded at a part of their resolution: no more work than the network's input needs.

JPEG 2000 keeps each resolution apart, JPEG lets a block of 8 x 8 pixels be transformed to fewer. Pillow hands
out both; its plugins are called by name, so no other picture format is ever tried.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile

from engine.dicom.codestream import JpegFacts, Stream, StreamFacts
from engine.dicom.jpeg_2000 import Jpeg2000Facts

Array = NDArray[Any]

PILLOW_ERRORS = (
    OSError, SyntaxError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError,
    AttributeError, EOFError, MemoryError, struct.error,
)  # fmt: skip
"""What Pillow raises for a malformed stream."""

_BYTE, _WORD = 8, 16
_COLOUR = 3
_MOST_JPEG_HALVINGS = 3
_MOST_JPEG_2000_HALVINGS = 2
"""Each halving takes every second sample after a short filter: deeper levels alias, and a network sees it.
At 112 pixels the fourth moved a hand's age by 2.3 months on average, the second by 0.5 (benchmarks)."""


def num_halvings(said: StreamFacts, least_HW: tuple[int, int], most: int) -> int:
    """How often width and height can be halved, rounding up, without going below ``least_HW``."""
    rows, columns = (max(least, 1) for least in least_HW)
    halvings = 0
    while halvings < most:
        height, width = smaller_HW(said.rows, said.columns, halvings + 1)
        if height < rows or width < columns:
            break
        halvings += 1
    return halvings


def smaller_HW(rows: int, columns: int, halvings: int) -> tuple[int, int]:
    """(rows, columns) after that many halvings, each rounded up."""
    return -(-rows >> halvings), -(-columns >> halvings)


def takes_jpeg(said: JpegFacts) -> bool:
    """Whether Pillow can decode this JPEG stream."""
    return said.is_dct and said.bits == _BYTE and said.samples in (1, _COLOUR)


def takes_jpeg_2000(said: Jpeg2000Facts) -> bool:
    """Whether Pillow keeps all bits of this JPEG 2000 stream."""
    if said.samples == 1:
        return said.bits <= _WORD
    return said.samples == _COLOUR and said.bits <= _BYTE and not said.is_signed


def most_jpeg_halvings(said: JpegFacts) -> int:
    """Scales of the cosine transform that are worth having."""
    return _MOST_JPEG_HALVINGS if takes_jpeg(said) else 0


def most_jpeg_2000_halvings(said: Jpeg2000Facts) -> int:
    """Resolution levels of the code stream that are worth having."""
    return min(said.num_levels, _MOST_JPEG_2000_HALVINGS) if takes_jpeg_2000(said) else 0


def jpeg(frame: Stream, said: JpegFacts, halvings: int) -> Array:
    """Stored values of a lossy 8-bit JPEG stream; colour as RGB. Raises one of PILLOW_ERRORS."""
    picture = JpegImageFile(BytesIO(frame))
    if halvings:
        picture.draft(None, (max(said.columns >> halvings, 1), max(said.rows >> halvings, 1)))
    return np.asarray(picture)


def jpeg_2000(stream: Stream, said: Jpeg2000Facts, halvings: int) -> Array:
    """Stored values of a JPEG 2000 or HTJ2K stream; colour as RGB. Raises one of PILLOW_ERRORS."""
    picture = Jpeg2KImageFile(BytesIO(stream))
    # Its own `reduce` rounds the size to the nearest, the standard rounds up: 2041 x 1515 would be refused.
    height, width = smaller_HW(said.rows, said.columns, halvings)
    tile = picture.tile[0]
    assert isinstance(tile.args, tuple)
    codec, _, layers, *rest = tile.args
    picture._size = (width, height)
    picture.tile = [
        ImageFile._Tile(tile.codec_name, (0, 0, width, height), 0, (codec, halvings, layers, *rest))
    ]
    scaled = np.asarray(picture)
    container = _BYTE if scaled.dtype.itemsize == 1 else _WORD
    stored = scaled >> (container - said.bits)  # it scales values up to the whole container
    if not said.is_signed:
        return stored
    signed: Array = (stored.astype(np.int32) - (1 << (said.bits - 1))).astype(f"i{container // _BYTE}")
    return signed
