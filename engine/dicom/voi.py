"""Stored values -> modality values -> display values in [0, 1], as one table over all stored values.

The chain of PS3.4 N.2 and PS3.3 C.11.1-2: modality LUT or rescale, then VOI LUT or window, then polarity.
Last, padding (PS3.3 C.7.5.1.1.2) becomes black whatever the polarity, for the standard takes it out of the
chain; nor does it count where the whole range is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from engine.dicom import header as elements
from engine.dicom.parse import PARSER_ERRORS, quiet
from engine.errors import HeaderError

Values = NDArray[np.float64]
Window = tuple[float, float]
"""Modality values that are shown as 0 and as 1."""

TABLE_BITS = 16
"""Up to here a table over all stored values is cheaper than the chain over all pixels."""
MAX_BITS = 32
_LINE_ERROR, _KNEE_ERROR = 4e-6, 1 / 512
_STEEP = 3  # with fewer steps there is no line between the knees


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a stored value lies in its container: ``bits`` bits from bit ``shift`` up."""

    bits: int
    shift: int
    is_signed: bool


@dataclass(frozen=True, slots=True)
class _Chain:
    """What the chain takes from a header, but for its lookup tables; equal chains share one table."""

    layout: Layout
    slope: float
    intercept: float
    window: tuple[float, float] | None
    function: str
    is_inverted: bool
    padding: tuple[int, int] | None
    is_own: bool = False
    """Whether ``window`` is that of a view: the file's own VOI and polarity do not count then."""


@dataclass(frozen=True, slots=True)
class Line:
    """``gain`` * clip(code, ``low``, ``high``) + ``offset``: a table where it is a line with level ends."""

    low: int
    high: int
    gain: float
    offset: float


def layout(header: Dataset) -> Layout:
    """BitsStored, HighBit and PixelRepresentation, checked against BitsAllocated.

    Raises:
        HeaderError: they contradict each other.
    """
    allocated = elements.integer(header, "BitsAllocated", TABLE_BITS)
    bits = elements.integer(header, "BitsStored", allocated)
    if not 1 <= bits <= min(allocated, MAX_BITS):
        raise HeaderError(f"BitsStored is {bits} of {allocated}, an image has 1 to {MAX_BITS}")
    high_bit = elements.integer(header, "HighBit", bits - 1)
    if high_bit >= allocated:
        raise HeaderError("HighBit is not below BitsAllocated")
    is_signed = elements.integer(header, "PixelRepresentation", 0) == 1
    return Layout(bits, max(high_bit - bits + 1, 0), is_signed)


def display_lut(header: Dataset, window: Window | None = None) -> NDArray[np.float32]:
    """Table [2 ** bits_stored] from the stored value, read as unsigned, to the display value in [0, 1].

    A window maps to [0, 1] as PS3.3 C.11.2.1.2 says; a VOI LUT by the range of its own values. Without either
    the full range of stored values is shown, but for padding; percentiles are the task's affair. With a
    ``window`` of the caller's, modality values between its two are shown instead, whatever the file says of
    VOI and polarity.

    Raises:
        HeaderError: an element of the chain has no sense, or there are more than 16 bits.
    """
    chain = _chain(header, window)
    if chain.layout.bits > TABLE_BITS:
        raise HeaderError(f"BitsStored is {chain.layout.bits}, a table has at most {TABLE_BITS} bits")
    if _has_lut(header, "ModalityLUTSequence") or _has_voi_lut(header, chain):
        return _table(chain, header)
    return _shared_table(chain)


def ascending_lut(header: Dataset, window: Window | None = None) -> NDArray[np.float32]:
    """The table of ``display_lut`` in the order of the stored values: the lowest signed one comes first."""
    table = display_lut(header, window)
    if not layout(header).is_signed:
        return table
    half = len(table) // 2
    return np.concatenate((table[half:], table[:half]))


def displayed(stored: NDArray[Any], header: Dataset, window: Window | None = None) -> NDArray[np.float32]:
    """Display values of signed or unsigned stored values, of any number of bits and any shape.

    Without window or VOI LUT the range of ``stored`` itself is shown, but for padding; ``window`` as in
    ``display_lut``.

    Raises:
        HeaderError: an element of the chain has no sense.
    """
    return _run(stored.astype(np.int64), _chain(header, window), header)


def as_line(table: NDArray[np.float32], low: int, high: int) -> Line | None:
    """The ascending table between the codes ``low`` and ``high`` as a line with level ends; None: it is none.

    Between the knees the line is the table. A pixel at or beyond a knee is off by less than 1/512 before
    it is clipped to [0, 1], and not at all after.
    """
    part = table[low : high + 1].astype(np.float64)
    steps = np.flatnonzero(part[1:] != part[:-1])
    if len(steps) == 0:
        return Line(low, low, 0.0, float(part[0]))
    first, last = int(steps[0]), int(steps[-1]) + 1
    left, right = (first + 1, last - 1) if last - first >= _STEEP else (first, last)
    gain = float(part[right] - part[left]) / (right - left)
    line = part[left] + gain * (np.clip(np.arange(len(part)), first, last) - left)
    is_exact = np.abs(np.clip(line, 0.0, 1.0) - part).max() <= _LINE_ERROR
    if not is_exact or np.abs(line - part).max() > _KNEE_ERROR:
        return None
    return Line(low + first, low + last, gain, float(part[left] - gain * (low + left)))


def _chain(header: Dataset, window: Window | None) -> _Chain:
    slope = elements.finite(header, "RescaleSlope", 1.0)
    if slope == 0.0:
        raise HeaderError("RescaleSlope is zero")
    where, intercept = layout(header), elements.finite(header, "RescaleIntercept", 0.0)
    if window:
        low, high = window
        middle = ((low + high) / 2, high - low)
        return _Chain(where, slope, intercept, middle, "LINEAR_EXACT", False, padding(header), True)
    center, width = elements.number(header, "WindowCenter"), elements.number(header, "WindowWidth")
    has_window = center is not None and width is not None and width > 0.0  # 0 often says: no window
    return _Chain(
        where,
        slope,
        intercept,
        cast("tuple[float, float]", (center, width)) if has_window else None,
        elements.text(header, "VOILUTFunction") or "LINEAR",
        # MONOCHROME1 shows the lowest value white; PresentationLUTShape repeats that, it does not add to it.
        elements.text(header, "PhotometricInterpretation") == "MONOCHROME1",
        padding(header),
    )


def _has_lut(header: Dataset, keyword: str) -> bool:
    """Whether the sequence has an item with something in it: some writers leave an empty one.

    Raises:
        HeaderError: it cannot be parsed.
    """
    try:
        with quiet():
            return any(len(item) > 0 for item in list(header.get(keyword) or [])[:1])
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error


def _has_voi_lut(header: Dataset, chain: _Chain) -> bool:
    return not chain.is_own and _has_lut(header, "VOILUTSequence")


def padding(header: Dataset) -> tuple[int, int] | None:
    """Least and greatest stored value that is padding; None: there is none, or no value could have it."""
    where = layout(header)
    value = elements.number(header, "PixelPaddingValue")
    limit = elements.number(header, "PixelPaddingRangeLimit")
    if value is None:
        return None
    lowest = -(1 << (where.bits - 1)) if where.is_signed else 0
    highest = lowest + (1 << where.bits) - 1
    wrap = 1 << elements.integer(header, "BitsAllocated", TABLE_BITS)
    ends = []
    for end in (value, value if limit is None else limit):
        # Writers state a negative value as unsigned: 63536 is -2000 in 16 bits.
        ends.append(int(end) - wrap if where.is_signed and end > highest else int(end))
    low, high = max(min(ends), lowest), min(max(ends), highest)
    return (low, high) if low <= high and (low, high) != (lowest, highest) else None


@lru_cache(maxsize=64)
def _shared_table(chain: _Chain) -> NDArray[np.float32]:
    table = _table(chain, Dataset())
    table.flags.writeable = False
    return table


def _table(chain: _Chain, header: Dataset) -> NDArray[np.float32]:
    bits = chain.layout.bits
    codes = np.arange(1 << bits, dtype=np.int64)
    is_negative = chain.layout.is_signed & (codes >= 1 << (bits - 1))
    return _run(np.where(is_negative, codes - (1 << bits), codes), chain, header)


def _run(stored: NDArray[np.int64], chain: _Chain, header: Dataset) -> NDArray[np.float32]:
    low, high = chain.padding or (1, 0)
    is_padding = (stored >= low) & (stored <= high)
    try:
        with quiet(), np.errstate(all="ignore"):
            unit = _shown(_modality_values(stored, chain, header), ~is_padding, chain, header)
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error
    if not np.isfinite(unit).all():
        raise HeaderError("a modality or VOI element is beyond all numbers")
    shown = (1.0 - unit if chain.is_inverted else unit).astype(np.float32)
    shown[is_padding] = 0.0
    return shown


def _modality_values(stored: NDArray[np.int64], chain: _Chain, header: Dataset) -> NDArray[Any]:
    """PS3.3 C.11.1: the modality LUT where there is one, else slope and intercept."""
    if _has_lut(header, "ModalityLUTSequence"):
        looked_up: NDArray[Any] = apply_modality_lut(stored, header)
        return looked_up
    return stored * chain.slope + chain.intercept


def _shown(modality: NDArray[Any], is_image: NDArray[np.bool_], chain: _Chain, header: Dataset) -> Values:
    """PS3.3 C.11.2: VOI LUT, else the first window, else the whole range of what is no padding."""
    if _has_voi_lut(header, chain):
        return _whole_range(apply_voi(modality, header), is_image)
    if chain.window is None:
        return _whole_range(modality, is_image)
    return _windowed(modality, *chain.window, chain.function)


def _whole_range(values: NDArray[Any], is_image: NDArray[np.bool_]) -> Values:
    wide: Values = values.astype(np.float64)
    counted = wide if is_image.all() else wide[is_image]
    low, high = (counted.min(), counted.max()) if counted.size else (0.0, 0.0)
    return np.clip((wide - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(wide)


def _windowed(modality: NDArray[Any], center: float, width: float, function: str) -> Values:
    """The three functions of PS3.3 C.11.2.1.2-3, with an output range of 0 to 1.

    Raises:
        HeaderError: an unknown function, or a LINEAR width below 1.
    """
    if function == "SIGMOID":
        unit = 1.0 / (1.0 + np.exp(-4.0 * (modality - center) / width))
    elif function == "LINEAR_EXACT":
        unit = (modality - center) / width + 0.5
    elif function == "LINEAR" and width > 1.0:
        unit = (modality - (center - 0.5)) / (width - 1.0) + 0.5
    elif function == "LINEAR" and width == 1.0:
        unit = np.where(modality > center - 0.5, 1.0, 0.0)
    else:
        raise HeaderError("VOILUTFunction is unknown, or WindowWidth is too small for it")
    shown: Values = np.clip(unit, 0.0, 1.0)
    return shown
