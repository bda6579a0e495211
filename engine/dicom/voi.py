"""Stored values -> modality values -> display values in [0, 1], as one table over all stored values.

The chain of PS3.4 N.2 and PS3.3 C.11.1-2: modality LUT or rescale, then VOI LUT or window, then polarity.
Padding (PS3.3 C.7.5.1.1.2) has no part in it: its pixels are no film.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.dicom import header as elements
from engine.dicom import lookup
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

_WHITE = 255
_LEAST_SHARE = 1 / 20
"""Of the film's pixels: a limb on less of it would be under a quarter of either side."""
_LEAST_GREYS = 16
"""Of 256: with fewer a film is a silhouette, or a wide window's grey."""
_LEAST_PIXELS = round(_LEAST_GREYS / _LEAST_SHARE)
"""Fewer pixels cannot show so many greys in so small a share: nothing is said of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a stored value lies in its container: ``bits`` bits from bit ``shift`` up."""

    bits: int
    shift: int
    is_signed: bool

    @property
    def low(self) -> int:
        """The least value that it can hold."""
        return -(1 << (self.bits - 1)) if self.is_signed else 0

    @property
    def high(self) -> int:
        """The greatest value that it can hold."""
        return self.low + (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class Voi:
    """What a file says of the values of interest (PS3.3 C.11.2)."""

    window: tuple[float, float] | None
    """Center and width of the first window, where its width is above 0."""
    function: str
    has_lut: bool
    remarks: tuple[str, ...]

    @property
    def is_some(self) -> bool:
        """Whether less or more than all values is to be shown."""
        return self.has_lut or self.window is not None


@dataclass(frozen=True, slots=True)
class Chain:
    """What the chain takes from a header, but for its lookup tables; equal chains share one table."""

    layout: Layout
    slope: float
    intercept: float
    window: tuple[float, float] | None
    function: str
    is_inverted: bool
    has_modality_lut: bool
    has_voi_lut: bool


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


def voi_of(header: Dataset) -> Voi:
    """VOI LUT, first window and function of a file.

    A function that the standard does not know counts as LINEAR, and a LINEAR width below 1, which it has not,
    as LINEAR_EXACT. A window without a width above 0 is none; some writers say "no window" by it.
    """
    center, width = elements.number(header, "WindowCenter"), elements.number(header, "WindowWidth")
    words = (elements.text(header, "VOILUTFunction") or "LINEAR").upper().replace("-", " ").split()
    said = "_".join("_".join(words).split("_"))
    function = said if said in _FUNCTIONS else "LINEAR"
    is_odd = function != said
    window = (center, width) if center is not None and width is not None and width > 0.0 else None
    if window and function == "LINEAR" and window[1] < 1.0:
        function, is_odd = "LINEAR_EXACT", True
    is_none = window is None and bool(elements.text(header, "WindowWidth"))
    remarks = {"voi_function": is_odd and window is not None, "window_ignored": is_none}
    has_lut = _has_lut(header, "VOILUTSequence")
    return Voi(window, function, has_lut, () if has_lut else tuple(code for code in remarks if remarks[code]))


def chain_of(header: Dataset, where: Layout, *, window: Window | None = None, is_full: bool = False) -> Chain:
    """The chain of a header for stored values that lie as ``where`` says.

    A window maps to [0, 1] as PS3.3 C.11.2.1.2 says; a VOI LUT by the range of its own values. Without
    either, or with ``is_full``, the full range of stored values is shown; percentiles are the view's affair.
    A VOI LUT that falls turns black and white there, too.
    With a ``window`` of the caller's, modality values between its two are shown instead, whatever the file
    says of VOI and polarity.

    Raises:
        HeaderError: an element of the chain has no sense.
    """
    slope, intercept = (
        elements.finite(header, "RescaleSlope", 1.0),
        elements.finite(header, "RescaleIntercept", 0.0),
    )
    if slope == 0.0:
        raise HeaderError("RescaleSlope is zero")
    has_modality_lut = _has_lut(header, "ModalityLUTSequence")
    if window:
        middle = ((window[0] + window[1]) / 2, window[1] - window[0])
        return Chain(where, slope, intercept, middle, "LINEAR_EXACT", False, has_modality_lut, False)
    # MONOCHROME1 shows the lowest value white; PresentationLUTShape repeats that, it does not add to it.
    is_inverted = elements.text(header, "PhotometricInterpretation") == "MONOCHROME1"
    said = voi_of(header)
    if is_full:
        is_inverted ^= said.has_lut and _falls(header)
        return Chain(where, slope, intercept, None, "LINEAR", is_inverted, has_modality_lut, False)
    return Chain(
        where, slope, intercept, said.window, said.function, is_inverted, has_modality_lut, said.has_lut
    )  # fmt: skip


def ascending_lut(header: Dataset, chain: Chain) -> Values:
    """Display values in the order of the stored values, of which the lowest signed one comes first.

    Raises:
        HeaderError: an element of the chain has no sense, or there are more than 16 bits.
    """
    if chain.layout.bits > TABLE_BITS:
        raise HeaderError(f"BitsStored is {chain.layout.bits}, a table has at most {TABLE_BITS} bits")
    if chain.has_modality_lut or chain.has_voi_lut:
        return _table(chain, header)
    return _shared_table(chain)


def displayed(
    stored: NDArray[Any], header: Dataset, chain: Chain, film: NDArray[np.bool_] | None = None
) -> Values:
    """Display values of stored values with their sign, of any number of bits and any shape.

    Without window or VOI LUT the range of ``stored`` itself is shown, where it is ``film``.

    Raises:
        HeaderError: an element of the chain has no sense.
    """
    try:
        with quiet(), np.errstate(all="ignore"):
            unit = _shown(_modality_values(stored, chain, header), film, chain, header)
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error
    if not np.isfinite(unit).all():
        raise HeaderError("a modality or VOI element is beyond all numbers")
    return 1.0 - unit if chain.is_inverted else unit


def shows_film(shown: NDArray[Any]) -> bool:
    """Whether display values of a film's pixels leave something of it to see.

    They do not where fewer than 1 in 20 are neither black nor white, or where these have fewer than 16 of 256
    greys: the window lies beside the film's values, or is far narrower or wider than they are.
    """
    if shown.size < _LEAST_PIXELS:
        return True
    counts = np.bincount(np.rint(shown * _WHITE).astype(np.uint8).reshape(-1), minlength=_WHITE + 1)[1:-1]
    return bool(counts.sum() >= _LEAST_SHARE * shown.size and np.count_nonzero(counts) >= _LEAST_GREYS)


def as_line(table: Values, low: int, high: int) -> Line | None:
    """The ascending table between the codes ``low`` and ``high`` as a line with level ends; None: it is none.

    Between the knees the line is the table. A pixel at or beyond a knee is off by less than 1/512 before
    it is clipped to [0, 1], and not at all after.
    """
    part = table[low : high + 1]
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


def padding(header: Dataset, where: Layout) -> tuple[int, int] | None:
    """Least and greatest stored value that is padding; None: there is none, or no value could have it."""
    value = elements.number(header, "PixelPaddingValue")
    limit = elements.number(header, "PixelPaddingRangeLimit")
    if value is None:
        return None
    wrap = 1 << elements.integer(header, "BitsAllocated", TABLE_BITS)
    ends = []
    for end in (value, value if limit is None else limit):
        # Writers state a negative value as unsigned: 63536 is -2000 in 16 bits.
        ends.append(int(end) - wrap if where.is_signed and end > where.high else int(end))
    low, high = max(min(ends), where.low), min(max(ends), where.high)
    return (low, high) if low <= high and (low, high) != (where.low, where.high) else None


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


def _falls(header: Dataset) -> bool:
    """Whether the VOI LUT shows its first entry brighter than its last.

    Raises:
        HeaderError: it has no sense.
    """
    try:
        with quiet():
            item = header.VOILUTSequence[0]
            table = lookup.entries(item, "LUTData", lookup.descriptor(item, "LUTDescriptor"))
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error
    return bool(table[0] > table[-1])


@lru_cache(maxsize=64)
def _shared_table(chain: Chain) -> Values:
    table = _table(chain, Dataset())
    table.flags.writeable = False
    return table


def _table(chain: Chain, header: Dataset) -> Values:
    return displayed(np.arange(chain.layout.low, chain.layout.high + 1), header, chain)


def _modality_values(stored: NDArray[Any], chain: Chain, header: Dataset) -> NDArray[Any]:
    """PS3.3 C.11.1: the modality LUT where there is one, else slope and intercept."""
    if chain.has_modality_lut:
        span = (chain.layout.low, chain.layout.high)
        return lookup.mapped(header.ModalityLUTSequence[0], stored, span)
    return stored * chain.slope + chain.intercept


def _shown(modality: NDArray[Any], film: NDArray[np.bool_] | None, chain: Chain, header: Dataset) -> Values:
    """PS3.3 C.11.2: VOI LUT, else the first window, else the whole range of the film."""
    if chain.has_voi_lut:
        span = (int(modality.min()), int(modality.max()))
        modality = lookup.mapped(header.VOILUTSequence[0], modality, span)
    if chain.has_voi_lut or chain.window is None:
        return _whole_range(modality.astype(np.float64), film)
    unit: Values = np.clip(_FUNCTIONS[chain.function](modality, *chain.window), 0.0, 1.0)
    return unit


def _whole_range(values: Values, film: NDArray[np.bool_] | None) -> Values:
    counted = values if film is None else values[film]
    low, high = (counted.min(), counted.max()) if counted.size else (0.0, 0.0)
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def _linear(modality: NDArray[Any], center: float, width: float) -> Values:
    if width == 1.0:
        return np.where(modality > center - 0.5, 1.0, 0.0)
    return (modality - (center - 0.5)) / (width - 1.0) + 0.5


def _linear_exact(modality: NDArray[Any], center: float, width: float) -> Values:
    return (modality - center) / width + 0.5


def _sigmoid(modality: NDArray[Any], center: float, width: float) -> Values:
    return 1.0 / (1.0 + np.exp(-4.0 * (modality - center) / width))


_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}
"""The three of PS3.3 C.11.2.1.2-3, with an output range of 0 to 1 before it is clipped."""
