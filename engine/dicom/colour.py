"""Grey that is stored as colour, and colour that is none: secondary captures often hold grey films as RGB.

A picture counts as grey where all its channels are equal, its chroma is neutral, or the entries of its
palette are equal in red, green and blue. Everything else is no radiograph.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from engine.dicom import lookup
from engine.dicom.parse import PARSER_ERRORS, quiet
from engine.errors import HeaderError, NotGrayscaleError, TruncatedError

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
PALETTE = "PALETTE COLOR"
RGB = "RGB"
YBR = frozenset({"YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
HALVED_CHROMA = "YBR_FULL_422"
RETIRED = frozenset({"ARGB", "CMYK", "HSV", "XYB", "YBR_PARTIAL_420", "YBR_PARTIAL_422"})
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 203))
"""Syntaxes that may move equal channels apart by a grey value or two."""

_CHANNELS = 3
_WHITE, _WIDE_WHITE = 255, 65535
_ROWS_AT_ONCE = 256  # a photograph is found out before all of it is compared
_LOSSY_STEPS = 2  # of 256


def samples_of(photometric: str | None) -> int:
    """Samples per pixel that a photometric interpretation asks for (PS3.3 C.7.6.3.1.2).

    Raises:
        HeaderError: it is missing or unknown.
        NotGrayscaleError: a retired colour space.
    """
    if photometric in GREY or photometric == PALETTE:
        return 1
    if photometric == RGB or photometric in YBR:
        return _CHANNELS
    if photometric in RETIRED:
        raise NotGrayscaleError("colour pixels of a retired kind: this is no radiograph")
    raise HeaderError("PhotometricInterpretation is missing or unknown")


def grey_channel(stored_HW3: NDArray[Any], *, is_ybr: bool, bits: int, is_lossy: bool) -> NDArray[Any]:
    """The stored values [rows, columns] of a grey picture [rows, columns, 3].

    Raises:
        NotGrayscaleError: there is colour in it.
    """
    tolerance = (_LOSSY_STEPS << max(bits - 8, 0)) if is_lossy else 0
    for top in range(0, len(stored_HW3), _ROWS_AT_ONCE):
        if not _is_grey(stored_HW3[top : top + _ROWS_AT_ONCE], is_ybr, 1 << (bits - 1), tolerance):
            raise NotGrayscaleError("colour pixels: this is no radiograph")
    channel: NDArray[Any] = np.ascontiguousarray(stored_HW3[..., 0 if is_ybr else 1])
    return channel


def _is_grey(band_HW3: NDArray[Any], is_ybr: bool, neutral: int, tolerance: int) -> bool:
    if is_ybr:
        return bool((np.abs(band_HW3[..., 1:].astype(np.int64) - neutral) <= tolerance).all())
    red, green, blue = (band_HW3[..., channel] for channel in range(_CHANNELS))
    if tolerance == 0:
        return bool(np.array_equal(red, green) and np.array_equal(green, blue))
    wide = band_HW3.astype(np.int64)
    return bool((wide.max(axis=-1) - wide.min(axis=-1) <= tolerance).all())


def halved_chroma(stream: memoryview, size_HW: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Uncompressed YBR_FULL_422 as [rows, columns, 3]: two Y, then their one Cb and one Cr (C.7.6.3.1.2).

    Raises:
        HeaderError: an odd number of columns.
        TruncatedError: the stream is too short.
    """
    rows, columns = size_HW
    if columns % 2:
        raise HeaderError("YBR_FULL_422 has an even number of columns")
    count = rows * columns * 2
    if len(stream) < count * dtype.itemsize:
        raise TruncatedError("the pixel data is shorter than Rows x Columns: copy the file again")
    pairs = np.frombuffer(stream, dtype, count).reshape(rows, columns // 2, 4)
    luma = pairs[..., :2].reshape(rows, columns)
    return np.stack((luma, pairs[..., 2].repeat(2, axis=1), pairs[..., 3].repeat(2, axis=1)), axis=-1)


def palette_lut(header: Dataset, bits: int, present: NDArray[np.int64]) -> NDArray[np.float64]:
    """Table [2 ** bits] from stored value to display value, of a palette that is grey where it is used.

    ``present`` are the stored values that occur; the window and the polarity of the grey chain do not
    apply to palettes (PS3.3 C.7.6.3.1.2).

    Raises:
        HeaderError: the palette has no sense.
        NotGrayscaleError: an entry in use has a colour.
    """
    codes = np.arange(1 << bits, dtype=np.int64)
    try:
        with quiet():
            top, colours = _palette(codes, header)
    except (*PARSER_ERRORS, struct.error) as error:
        raise HeaderError(f"the colour palette has no sense ({type(error).__name__})") from error
    used = colours[present]
    if (used != used[:, :1]).any():
        raise NotGrayscaleError("the palette has colours: this is no radiograph")
    return np.clip(colours[:, 0] / top, 0.0, 1.0)


def _palette(codes: NDArray[np.int64], header: Dataset) -> tuple[float, NDArray[np.int64]]:
    """(White, colours [codes, 3]): stored values beyond the palette take its first or last entry."""
    said = lookup.descriptor(header, "RedPaletteColorLookupTableDescriptor")
    first = said.first_within(0, len(codes) - 1)
    place = np.clip(codes - first, 0, said.entries - 1)
    if "RedPaletteColorLookupTableData" not in header:
        expanded = apply_color_lut((place + said.first).astype(np.int32), header)[:, :_CHANNELS]
        return float(np.iinfo(expanded.dtype).max), expanded.astype(np.int64)
    channels = [
        lookup.entries(header, f"{name}PaletteColorLookupTableData", said)[place]
        for name in ("Red", "Green", "Blue")
    ]
    colours = np.stack(channels, axis=-1)
    # Some writers put eight bits into the upper byte of two, others into the lower one.
    return float(_WHITE if colours.max() <= _WHITE else _WIDE_WHITE), colours
