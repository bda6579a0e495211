"""Pixel element -> stored values -> display values in [0, 1], of one frame.

Grey frames have at most 16 bits nearly always, so the whole chain of ``voi`` becomes one table; and where the
table is a line over the values that occur, only the line is handed on: to average and to map linearly may
change places, so the caller maps its few pixels after the resize instead of all of them before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.dicom import colour, film, functional_groups, pixel_element, voi
from engine.dicom import header as elements
from engine.dicom.decoders import decode_frame, require_decoder
from engine.dicom.frame import Frame, FrameFacts
from engine.dicom.parse import DataSet, Limits, require_pixels
from engine.errors import HeaderError, NotGrayscaleError, OverLimitError, PixelDecodeError

_ROWS_AT_ONCE = 64  # the index of a whole image leaves the processor's cache: 4 times slower
_BYTE = 8
_SMALL_TABLE = 1 << 12  # up to here to look at the whole table takes less than at the least and largest value
_CO_SITED = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))


@dataclass(frozen=True, slots=True)
class _Stored:
    """Stored values as the file has them, and what is needed to read them."""

    values: NDArray[Any]
    header: Dataset
    facts: FrameFacts
    photometric: str
    is_rgb: bool
    is_lossy: bool


def display_values(
    data_set: DataSet, limits: Limits, *, frame: int = 0, least_HW: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Display values [h, w] of a grey frame (from 0), 0 black to 1 white; see ``read_frame``."""
    return read_frame(data_set, limits, frame=frame, least_HW=least_HW).display_HW


def read_frame(
    data_set: DataSet,
    limits: Limits,
    *,
    frame: int = 0,
    least_HW: tuple[int, int] | None = None,
    window: voi.Window | None = None,
) -> Frame:
    """A frame (from 0) of a grey image; with ``least_HW`` it may come smaller, but not below that.

    With a ``window`` its display values are the modality values (Hounsfield units of a CT) between the two.

    Raises:
        HeaderError, OverLimitError, NoPixelDataError, TruncatedError, UnsupportedSyntaxError,
        PixelDecodeError: the frame cannot be read.
        NotGrayscaleError: it has colours, or a window is asked of grey that is stored as colour.
    """
    stored = _stored(data_set, limits, frame, least_HW)
    original_HW = (stored.facts.rows, stored.facts.columns)
    reduction = _reduction(original_HW, stored.values.shape[:2])
    shown = _shaded(stored, window, is_reduced=reduction > 1)
    values_HW = shown.values_HW
    if reduction > 1 and data_set.transfer_syntax_uid in _CO_SITED:
        values_HW = _centred(values_HW, reduction)
    open_HW = film.shutter(stored.header, values_HW.shape, reduction)
    aspect = elements.pixel_aspect(stored.header)
    remarks = {
        "padding": shown.film_HW is not None,
        "pixel_aspect": aspect != 1.0,
        "shutter": open_HW is not None,
    }
    return Frame(
        values_HW.astype(np.float32, copy=False), shown.gain, shown.offset, original_HW, reduction,
        film_HW=_both(shown.film_HW, open_HW), aspect=aspect,
        remarks=tuple(code for code, holds in remarks.items() if holds),
    )  # fmt: skip


def _both(one_HW: film.Mask | None, other_HW: film.Mask | None) -> film.Mask | None:
    """Where both masks hold; a mask of None holds everywhere."""
    if one_HW is None or other_HW is None:
        return other_HW if one_HW is None else one_HW
    return one_HW & other_HW


def stored_values(data_set: DataSet, limits: Limits, *, frame: int = 0) -> NDArray[Any]:
    """Stored values as the file has them, unused high bits included: [rows, columns], or [.., 3] for colour.

    Raises:
        as ``read_frame`` does.
    """
    return _stored(data_set, limits, frame, None).values


def _stored(data_set: DataSet, limits: Limits, frame: int, least_HW: tuple[int, int] | None) -> _Stored:
    stream = require_pixels(data_set)
    header = functional_groups.of_frame(data_set.header, frame)
    photometric = elements.text(header, "PhotometricInterpretation")
    facts = FrameFacts(
        rows=elements.integer(header, "Rows"),
        columns=elements.integer(header, "Columns"),
        bits_allocated=elements.integer(header, "BitsAllocated"),
        is_little_endian=data_set.is_little_endian,
        samples=max(elements.integer(header, "SamplesPerPixel", 1), 1),
        planar_configuration=elements.integer(header, "PlanarConfiguration", 0),
        is_rgb=photometric == colour.RGB,
    )
    decoder = require_decoder(data_set.transfer_syntax_uid)
    number = _require_size(header, facts, limits)
    if colour.samples_of(photometric) != facts.samples or photometric is None:
        raise HeaderError("SamplesPerPixel contradicts PhotometricInterpretation")
    if not 0 <= frame < number:
        raise HeaderError("NumberOfFrames is below the number of the frame that was asked for")
    if data_set.is_float:
        raise PixelDecodeError("floating-point pixel data are not read: this is no radiograph")
    if data_set.is_encapsulated != decoder.is_encapsulated:
        raise HeaderError("the pixel data's form contradicts the transfer syntax")
    if data_set.is_encapsulated:
        code_stream = pixel_element.encapsulated_frame(stream, frame, number, header)
        least = None if photometric == colour.PALETTE else least_HW  # indices have no mean
        values = decode_frame(data_set.transfer_syntax_uid, code_stream, facts, least_HW=least)
    else:
        values = _native(data_set, facts, photometric, frame)
    return _Stored(
        values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("=")),
        header,
        facts,
        photometric,
        photometric == colour.RGB or decoder.converts_colour,
        data_set.transfer_syntax_uid in colour.LOSSY,
    )


def _require_size(header: Dataset, facts: FrameFacts, limits: Limits) -> int:
    """NumberOfFrames, after a look at all that an allocation could grow with."""
    number = elements.num_frames(header)
    if min(facts.rows, facts.columns) < 1:
        raise HeaderError("Rows or Columns is zero")
    if facts.rows * facts.columns * number * facts.samples > limits.pixels:
        raise OverLimitError(f"Rows x Columns x Frames x Samples is above the cap of {limits.pixels}")
    return number


def _native(data_set: DataSet, facts: FrameFacts, photometric: str, frame: int) -> NDArray[Any]:
    is_halved = photometric == colour.HALVED_CHROMA
    samples = 2 if is_halved else facts.samples  # for each pixel one Y and half of Cb and Cr
    bits = facts.rows * facts.columns * samples * facts.bits_allocated
    is_swapped = data_set.is_in_words and not data_set.is_little_endian and facts.dtype.itemsize == 1
    stream, first_bit = pixel_element.native_frame(
        require_pixels(data_set), frame, bits, is_word_swapped=is_swapped
    )
    if is_halved and facts.bits_allocated in {8, 16}:
        return colour.halved_chroma(stream, (facts.rows, facts.columns), facts.dtype)
    return decode_frame(data_set.transfer_syntax_uid, stream, replace(facts, first_bit=first_bit))


def _reduction(original_HW: tuple[int, int], decoded_HW: tuple[int, ...]) -> int:
    """The power of two by which a frame was decoded smaller.

    Raises:
        PixelDecodeError: no power of two leads to that size.
    """
    reduction = 1
    while reduction <= max(original_HW):
        if tuple(-(-side // reduction) for side in original_HW) == decoded_HW[:2]:
            return reduction
        reduction *= 2
    raise PixelDecodeError("the decoded frame has another size than Rows x Columns")


@dataclass(frozen=True, slots=True)
class _Shown:
    """Values, and the line from them to display values; ``film_HW`` as in ``Frame``."""

    values_HW: NDArray[Any]
    gain: float
    offset: float
    film_HW: film.Mask | None = None


def _shaded(stored: _Stored, window: voi.Window | None, *, is_reduced: bool) -> _Shown:
    where = voi.layout(stored.header)
    if stored.photometric in colour.GREY:
        if where.bits > voi.TABLE_BITS:
            wide_HW = _wide(stored.values, where)
            film_HW = _no_padding(wide_HW, voi.padding(stored.header))
            return _Shown(voi.displayed(wide_HW, stored.header, window), 1.0, 0.0, film_HW)
        codes_HW = _codes(stored.values, where, is_clipped=is_reduced or stored.is_lossy)
        film_HW = _no_padding(codes_HW, _as_codes(voi.padding(stored.header), where))
        return _looked_up(codes_HW, voi.ascending_lut(stored.header, window), film_HW)
    if window:
        raise NotGrayscaleError("the image is stored as colour: it has no modality values to window")
    values = stored.values
    if stored.photometric != colour.PALETTE:
        values = colour.grey_channel(
            values, is_ybr=not stored.is_rgb, bits=where.bits, is_lossy=stored.is_lossy
        )
        _require_plain(where)
        return _Shown(_codes(values, where, is_clipped=True), 1.0 / ((1 << where.bits) - 1), 0.0)
    _require_plain(where)
    codes = _codes(values, where, is_clipped=False)
    present = np.flatnonzero(np.bincount(codes.reshape(-1), minlength=1))
    return _looked_up(codes, colour.palette_lut(stored.header, where.bits, present), None)


def _as_codes(padding: tuple[int, int] | None, where: voi.Layout) -> tuple[int, int] | None:
    half = 1 << (where.bits - 1) if where.is_signed else 0
    return padding and (padding[0] + half, padding[1] + half)


def _no_padding(values_HW: NDArray[Any], padding: tuple[int, int] | None) -> film.Mask | None:
    """Which values lie outside of the padding, least to greatest; None: all of them."""
    if padding is None:
        return None
    film_HW: film.Mask = (values_HW < padding[0]) | (values_HW > padding[1])
    return None if film_HW.all() or not film_HW.any() else film_HW


def _require_plain(where: voi.Layout) -> None:
    if where.is_signed or where.bits > voi.TABLE_BITS:
        raise HeaderError(f"grey pixels stored as colour have 1 to {voi.TABLE_BITS} unsigned bits")


def _codes(stored: NDArray[Any], where: voi.Layout, *, is_clipped: bool) -> NDArray[Any]:
    """Stored values as place in an ascending table: unsigned, the lowest signed value being 0.

    Bits above and below the stored ones are no part of the value (overlays once lay there). Where a lossy or
    reduced decoding went beyond the range, its end is meant: ``is_clipped``.
    """
    top, half = (1 << where.bits) - 1, 1 << (where.bits - 1)
    if is_clipped and where.shift == 0 and (stored.dtype.kind == "i" or not where.is_signed):
        low = -half if where.is_signed else 0
        if stored.min() < low or stored.max() > low + top:
            held = np.iinfo(stored.dtype)  # a code stream may have fewer bits than the header says
            stored = np.clip(stored, max(low, held.min), min(low + top, held.max))
    if where.shift:
        stored = stored >> where.shift
    kind = np.uint16 if stored.dtype.itemsize > 1 or where.bits > _BYTE else np.uint8
    codes: NDArray[Any] = stored.astype(kind, copy=False)
    if where.bits < codes.dtype.itemsize * 8 and codes.max(initial=0) > top:
        codes = codes & kind(top)
    return codes ^ kind(half) if where.is_signed else codes


def _wide(stored: NDArray[Any], where: voi.Layout) -> NDArray[np.int64]:
    """Stored values of more than 16 bits, with their sign."""
    mask, half = (1 << where.bits) - 1, 1 << (where.bits - 1)
    codes = (stored.astype(np.int64) >> where.shift) & mask
    return (codes ^ half) - half if where.is_signed else codes


def _looked_up(codes_HW: NDArray[Any], table: NDArray[np.float32], film_HW: film.Mask | None) -> _Shown:
    """The codes by a line where the table is one over those of the film, else their display values."""
    low, high = 0, len(table) - 1
    line = voi.as_line(table, low, high) if high < _SMALL_TABLE else None
    if line is None or (line.low, line.high) != (low, high):  # what does not occur may bend it
        of_film = codes_HW if film_HW is None else codes_HW[film_HW]
        low, high = int(of_film.min()), int(of_film.max())
        line = voi.as_line(table, low, high)
    if line is not None:
        is_inside = line.low <= low and high <= line.high and film_HW is None
        values_HW = codes_HW if is_inside else np.clip(codes_HW, line.low, line.high)
        return _Shown(values_HW, line.gain, line.offset, film_HW)
    shown_HW = np.empty(codes_HW.shape, np.float32)
    for top in range(0, len(codes_HW), _ROWS_AT_ONCE):
        band = slice(top, top + _ROWS_AT_ONCE)
        np.take(table, codes_HW[band], out=shown_HW[band], mode="clip")
    return _Shown(shown_HW, 1.0, 0.0, film_HW)


def _centred(values_HW: NDArray[Any], reduction: int) -> NDArray[np.float32]:
    """Values moved from the corner to the middle of the pixels that they stand for.

    The low-pass filters of JPEG 2000 are centred on every second sample (ITU-T T.800 F.3), so a value of a
    reduced frame lies at pixel reduction * i, while the mean of its pixels lies half of them further on.
    """
    part = np.float32((reduction - 1) / (2 * reduction))
    centred_HW = np.empty(values_HW.shape, np.float32)
    for top in range(0, len(values_HW), _ROWS_AT_ONCE):
        band = values_HW[top : top + _ROWS_AT_ONCE + 1].astype(np.float32)
        band[:, :-1] += part * (band[:, 1:] - band[:, :-1])
        here = band[:_ROWS_AT_ONCE]
        below = band[1 : len(here) + 1] if len(band) > len(here) else np.concatenate((band[1:], band[-1:]))
        centred_HW[top : top + len(here)] = here + part * (below - here)
    return centred_HW
