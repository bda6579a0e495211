"""Stored values out of their containers: which bits are the film, by all that a file says of them.

Three may disagree: BitsStored, HighBit and PixelRepresentation of the header; precision and sign of the code
stream (PS3.5 8.2 wants them the same); and the bits that are set (PS3.5 8.1.1: those beyond the stored ones
are no part of a value, overlays once lay there). A stream with fewer bits is believed. Where bits can be read
in several ways, the smoothest picture is the film: in a wrong reading neighbours jump by a power of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.dicom import header as elements
from engine.dicom.codestream import StreamFacts
from engine.dicom.jpeg_2000 import Jpeg2000Facts
from engine.dicom.voi import MAX_BITS, TABLE_BITS, Layout, layout
from engine.errors import HeaderError

Array = NDArray[Any]

_BYTE = 8
_OVERSHOOT = 32
_MOST_VOTES = 3 / 4
"""Of the places where two readings differ: less is no decision."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Stored values as place in an ascending table: 0 is the least value that ``layout`` can hold."""

    values_HW: Array
    layout: Layout
    remarks: tuple[str, ...] = ()


def agrees(header: Dataset, said: StreamFacts) -> bool:
    """Whether code stream and header say the same of the bits, and nothing else lies in them."""
    where = layout(header)
    is_signed = said.is_signed if isinstance(said, Jpeg2000Facts) else where.is_signed
    is_same = (said.bits, is_signed) == (where.bits, where.is_signed)
    return is_same and where.shift == 0 and not _overlay_bits(header, where)


def read(values: Array, header: Dataset, said: StreamFacts | None = None, *, is_lossy: bool = False) -> Codes:
    """The film in decoded values of any shape; a lossy coding may go a little beyond their range.

    Raises:
        HeaderError: the header contradicts itself, or no reading is the film's for sure.
    """
    stated = layout(header)
    where = stated
    if said and said.bits < stated.bits + stated.shift:
        where = Layout(min(said.bits, stated.bits), 0, stated.is_signed)
    if is_lossy:
        values = _without_overshoot(values, where)
    pattern = values.view(f"u{values.dtype.itemsize}")
    for bit in _overlay_bits(header, where):
        pattern = pattern & ~pattern.dtype.type(1 << bit)
    if where.shift and _lies_low(pattern, where):
        where = replace(where, shift=0)
    is_wider = _is_wider(pattern, where)
    is_other_sign = isinstance(said, Jpeg2000Facts) and said.is_signed != where.is_signed
    if not is_wider and not is_other_sign:
        found, has_more = where, False
    else:
        found, has_more = _smoothest(pattern, where, is_wider=is_wider, is_other_sign=is_other_sign)
    remarks = {
        "high_bit": where.shift != stated.shift and where.bits == stated.bits,
        "stream_precision": where.bits != stated.bits,
        "stream_sign": found.is_signed != where.is_signed,
        "bits_above_stored": found.bits != where.bits,
        "high_bits": has_more and found.bits == where.bits,
    }
    return Codes(_codes(pattern, found), found, tuple(code for code in remarks if remarks[code]))


def _without_overshoot(values: Array, where: Layout) -> Array:
    """Values cut at the ends of their range, where all lie within a 32nd of it: what an edge rings to."""
    if where.shift or (where.is_signed and values.dtype.kind != "i"):
        return values
    low, high = where.low, where.low + (1 << where.bits) - 1
    least, most = int(values.min()), int(values.max())
    slack = (high - low) // _OVERSHOOT
    is_beyond = least < low or most > high
    if not is_beyond or least < low - slack or most > high + slack:
        return values
    held = np.iinfo(values.dtype)
    clipped: Array = np.clip(values, max(low, held.min), min(high, held.max))
    return clipped


def masked(values: Array, where: Layout) -> Array:
    """The codes of a layout that nobody doubts: what lies beyond its bits is left out."""
    return _codes(values.view(f"u{values.dtype.itemsize}"), where)


def _overlay_bits(header: Dataset, where: Layout) -> list[int]:
    """Bits of the container that hold overlays by the header (60xx,0102; retired), outside of the film's."""
    said = (elements.number(header, f"{tag:08X}") for tag in elements.OVERLAY_BIT_POSITIONS)
    film = range(where.shift, where.shift + where.bits)
    return [int(bit) for bit in said if bit is not None and 0 < bit < MAX_BITS and int(bit) not in film]


def _lies_low(pattern: Array, where: Layout) -> bool:
    """Whether the film lies in the lowest bits: those that HighBit says are empty, those below are not."""
    return int(pattern.max(initial=0)) >> where.bits == 0 and bool((pattern & ((1 << where.shift) - 1)).any())


def _is_wider(pattern: Array, where: Layout) -> bool:
    """Whether bits above the film's are set that are no sign: a sign may go on into them, or not."""
    end = where.bits + where.shift
    if int(pattern.max(initial=0)) >> end == 0:
        return False
    above = pattern >> end
    ones = (1 << (pattern.dtype.itemsize * 8 - end)) - 1
    return not (where.is_signed and ((above == 0) | (above == ones)).all())


def _codes(pattern: Array, where: Layout) -> Array:
    codes = pattern >> where.shift if where.shift else pattern
    kind = np.uint8 if where.bits <= _BYTE else np.uint16 if where.bits <= TABLE_BITS else np.int64
    codes = codes.astype(kind, copy=False)
    top, half = (1 << where.bits) - 1, 1 << (where.bits - 1)
    if where.bits < codes.dtype.itemsize * 8 and codes.max(initial=0) > top:
        codes = codes & kind(top)
    return codes ^ kind(half) if where.is_signed else codes


def _smoothest(pattern: Array, where: Layout, *, is_wider: bool, is_other_sign: bool) -> tuple[Layout, bool]:
    """(The layout whose values are the film, whether bits beyond it hold something else).

    Raises:
        HeaderError: two layouts give other values, and neither is the smoother.
    """
    best, best_HW = where, _values(pattern, where)
    has_more = False
    for other in _others(pattern, where, is_wider=is_wider, is_other_sign=is_other_sign):
        other_HW = _values(pattern, other)
        share = _share_smoother(best_HW, other_HW)
        if share is None:
            continue
        if 1 - _MOST_VOTES < share < _MOST_VOTES:
            raise HeaderError(
                "bits are set beyond BitsStored, or its sign is unclear: nobody knows the values"
            )
        if share <= 1 - _MOST_VOTES:
            best, best_HW = other, other_HW
        else:
            has_more = has_more or other.bits > where.bits
    return best, has_more


def _others(pattern: Array, where: Layout, *, is_wider: bool, is_other_sign: bool) -> Iterator[Layout]:
    all_bits = pattern.dtype.itemsize * 8 - where.shift
    wide = replace(
        where, bits=all_bits if where.is_signed else (int(pattern.max()) >> where.shift).bit_length()
    )
    if is_wider:
        yield wide
    if is_other_sign:
        yield replace(where, is_signed=not where.is_signed)
    if is_wider and is_other_sign:
        yield Layout(all_bits, where.shift, not where.is_signed)


def _values(pattern: Array, where: Layout) -> NDArray[np.int64]:
    values: NDArray[np.int64] = _codes(pattern, where).astype(np.int64) + where.low
    return values


def _share_smoother(first_HW: NDArray[np.int64], second_HW: NDArray[np.int64]) -> float | None:
    """Of the neighbours that are not as far apart in both, the share that is closer in the first."""
    votes = others = 0
    for axis in (0, 1):
        first, second = (np.abs(np.diff(values, axis=axis)) for values in (first_HW, second_HW))
        votes += int(np.count_nonzero(first < second))
        others += int(np.count_nonzero(first != second))
    return votes / others if others else None
