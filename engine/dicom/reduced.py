"""Frames by Pillow, those of JPEG 2000 at a part of their resolution: no more work than the network needs.

JPEG 2000 keeps each resolution apart. JPEG could be transformed to less too, but it saves a third of little
time, and its blocks keep less of the film. Pillow's plugins are called by name, so no other picture format is
ever tried.
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

from engine.dicom.codestream import JpegFacts, Stream
from engine.dicom.jpeg_2000 import Jpeg2000Facts

Array = NDArray[Any]

PILLOW_ERRORS = (
    OSError, SyntaxError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError,
    AttributeError, EOFError, MemoryError, struct.error,
)  # fmt: skip
"""What Pillow raises for a malformed stream."""

_BYTE, _WORD = 8, 16
_COLOUR = 3
_MOST_HALVINGS = 1
_MARGIN = 8
"""Pixels a side of the smaller frame that make one of what is needed. A halving takes every second sample
after a short filter, so it aliases, and at the edges it keeps a line of one pixel or loses it. With this
margin the network's input moves by 1 grey on average and by 3 at the 99.9th percentile at most on real films
(benchmarks); a second halving, or half the margin, moves it by more."""


def num_halvings(said: Jpeg2000Facts, least_HW: tuple[int, int]) -> int:
    """How often width and height can be halved, rounding up, with ``least_HW`` and the margin kept."""
    if not takes_jpeg_2000(said):
        return 0
    halvings = 0
    while halvings < min(said.num_levels, _MOST_HALVINGS):
        smaller = smaller_HW(said.rows, said.columns, halvings + 1)
        if any(side < _MARGIN * least for side, least in zip(smaller, least_HW, strict=True)):
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


def jpeg(frame: Stream, said: JpegFacts) -> Array:
    """Stored values of a lossy 8-bit JPEG stream; colour as RGB. Raises one of PILLOW_ERRORS."""
    return np.asarray(JpegImageFile(BytesIO(frame)))


def jpeg_2000(stream: Stream, said: Jpeg2000Facts, halvings: int = 0) -> Array:
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
