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

from engine.dicom import bits, colour, film, functional_groups, native, pixel_element, voi
from engine.dicom import header as elements
from engine.dicom.codestream import StreamFacts
from engine.dicom.decoders import decode_frame, require_decoder, stream_facts
from engine.dicom.frame import Frame, FrameFacts
from engine.dicom.parse import DataSet, Limits, require_pixels
from engine.errors import HeaderError, NotGrayscaleError, OverLimitError, PixelDecodeError

_ROWS_AT_ONCE = 64  # the index of a whole image leaves the processor's cache: 4 times slower
_SAMPLE = 1 << 16  # pixels of a film that say whether a window shows it
_BLOCK, _RINGS = 4, 2
_FLAT, _RINGING = 1 / 256, 12 / 256
"""Of the range: how far a lossy coding moves padding in a level block, and beside an edge."""
_SMALL_TABLE = 1 << 12  # up to here to look at the whole table takes less than at the least and largest value


@dataclass(frozen=True, slots=True)
class _Stored:
    """Stored values as the file has them, and what is needed to read them."""

    values: NDArray[Any]
    header: Dataset
    facts: FrameFacts
    photometric: str
    is_rgb: bool
    is_lossy: bool
    said: StreamFacts | None
    """What the code stream says of itself; None where there is none."""


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
    stored = _stored(data_set, limits, frame, least_HW, window)
    original_HW = (stored.facts.rows, stored.facts.columns)
    reduction = _reduction(original_HW, stored.values.shape[:2])
    open_HW = film.shutter(stored.header, stored.values.shape[:2], reduction)
    shown = _shaded(stored, window, open_HW)
    values_HW = shown.values_HW
    if reduction > 1:
        values_HW = _centred(values_HW, reduction)
    aspect = elements.pixel_aspect(stored.header)
    remarks = {
        "padding": shown.has_padding,
        "pixel_aspect": aspect != 1.0,
        "shutter": open_HW is not None,
    }
    return Frame(
        values_HW.astype(np.float32, copy=False), shown.gain, shown.offset, original_HW, reduction,
        film_HW=shown.film_HW, aspect=aspect,
        remarks=tuple(sorted({*shown.remarks, *(code for code, holds in remarks.items() if holds)})),
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
    return _stored(data_set, limits, frame).values


def _stored(
    data_set: DataSet,
    limits: Limits,
    frame: int,
    least_HW: tuple[int, int] | None = None,
    window: voi.Window | None = None,
) -> _Stored:
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
        said = stream_facts(data_set.transfer_syntax_uid, code_stream)
        has_means = said is not None and _has_means(header, photometric, said, window)
        values = decode_frame(
            data_set.transfer_syntax_uid, code_stream, facts, least_HW=least_HW if has_means else None
        )
    else:
        said, values = None, _native(data_set, facts, photometric, frame, number)
    return _Stored(
        values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("=")),
        header,
        facts,
        photometric,
        photometric == colour.RGB or decoder.converts_colour,
        data_set.transfer_syntax_uid in colour.LOSSY
        or elements.text(header, "LossyImageCompression") == "01",
        said,
    )


def _has_means(header: Dataset, photometric: str, said: StreamFacts, window: voi.Window | None) -> bool:
    """Whether the mean of stored values is shown as the mean of what they are shown as.

    Not of palette indices; nor where bits mean something else, values are padding, or a table or a window
    bends what is shown: the mean of clipped values is not the clipped mean.
    """
    if photometric == colour.PALETTE or not bits.agrees(header, said):
        return False
    if photometric not in colour.GREY:
        return True
    chain = voi.chain_of(header, voi.layout(header), window=window)
    if voi.padding(header, chain.layout) is not None or chain.layout.bits > voi.TABLE_BITS:
        return False
    table = voi.ascending_lut(header, chain)
    line = voi.as_line(table, 0, len(table) - 1)
    return line is not None and (line.low, line.high) == (0, len(table) - 1)


def _require_size(header: Dataset, facts: FrameFacts, limits: Limits) -> int:
    """NumberOfFrames, after a look at all that an allocation could grow with."""
    number = elements.num_frames(header)
    if min(facts.rows, facts.columns) < 1:
        raise HeaderError("Rows or Columns is zero")
    if facts.rows * facts.columns * number * facts.samples > limits.pixels:
        raise OverLimitError(f"Rows x Columns x Frames x Samples is above the cap of {limits.pixels}")
    return number


def _native(data_set: DataSet, facts: FrameFacts, photometric: str, frame: int, frames: int) -> NDArray[Any]:
    is_halved = photometric == colour.HALVED_CHROMA
    samples = 2 if is_halved else facts.samples  # for each pixel one Y and half of Cb and Cr
    frame_bits = facts.rows * facts.columns * samples * facts.bits_allocated
    is_swapped = data_set.is_in_words and not data_set.is_little_endian and facts.dtype.itemsize == 1
    whole = require_pixels(data_set)
    stream, first_bit = pixel_element.native_frame(whole, frame, frame_bits, is_word_swapped=is_swapped)
    if is_halved and facts.bits_allocated in {8, 16}:
        values = colour.halved_chroma(stream, (facts.rows, facts.columns), facts.dtype)
    else:
        values = decode_frame(data_set.transfer_syntax_uid, stream, replace(facts, first_bit=first_bit))
    native.require_no_more(whole, -(-frame_bits * frames // 8), facts)
    return values


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
    has_padding: bool = False
    remarks: tuple[str, ...] = ()


def _shaded(stored: _Stored, window: voi.Window | None, open_HW: film.Mask | None) -> _Shown:
    if stored.photometric in colour.GREY:
        return _grey(stored, window, open_HW)
    if window:
        raise NotGrayscaleError("the image is stored as colour: it has no modality values to window")
    where = voi.layout(stored.header)
    if stored.photometric != colour.PALETTE:
        channel_HW = colour.grey_channel(
            stored.values, is_ybr=not stored.is_rgb, bits=where.bits, is_lossy=stored.is_lossy
        )
        _require_plain(where)
        read = bits.read(channel_HW, stored.header, stored.said, is_lossy=stored.is_lossy)
        white = (1 << read.layout.bits) - 1
        return _Shown(read.values_HW, 1.0 / white, 0.0, open_HW, remarks=read.remarks)
    _require_plain(where)
    codes_HW = bits.masked(stored.values, where)
    present = np.flatnonzero(np.bincount(codes_HW.reshape(-1), minlength=1))
    table = colour.palette_lut(stored.header, where.bits, present)
    return _Shown(*_looked_up(codes_HW, table, open_HW), open_HW)


def _require_plain(where: voi.Layout) -> None:
    if where.is_signed or where.bits > voi.TABLE_BITS:
        raise HeaderError(f"grey pixels stored as colour have 1 to {voi.TABLE_BITS} unsigned bits")


def _grey(stored: _Stored, window: voi.Window | None, open_HW: film.Mask | None) -> _Shown:
    """The chain of the header; the full range where the file's window does not show its film."""
    header = stored.header
    read = bits.read(stored.values, header, stored.said, is_lossy=stored.is_lossy)
    where, codes_HW = read.layout, read.values_HW
    inner_HW = _without_padding(codes_HW, voi.padding(header, where), where, is_lossy=stored.is_lossy)
    film_HW = _both(inner_HW, open_HW)
    if film_HW is not None and not film_HW.any():
        film_HW = open_HW
    said = voi.voi_of(header)
    chain = voi.chain_of(header, where, window=window)
    remarks = set(read.remarks) | (set() if window else set(said.remarks))
    is_wide = where.bits > voi.TABLE_BITS  # no table is so long: display values of each pixel instead

    def through(chain: voi.Chain) -> NDArray[np.float64]:
        if is_wide:
            return voi.displayed(codes_HW + where.low, header, chain, film_HW)
        return voi.ascending_lut(header, chain)

    shown = through(chain)
    of_film = _sample(shown, film_HW) if is_wide else shown[_sample(codes_HW, film_HW)]
    if said.is_some and not window and not voi.shows_film(of_film):
        remarks.add("window_ignored")
        shown = through(voi.chain_of(header, where, is_full=True))
    values_HW, gain, offset = (shown, 1.0, 0.0) if is_wide else _looked_up(codes_HW, shown, film_HW)
    return _Shown(values_HW, gain, offset, film_HW, inner_HW is not None, tuple(remarks))


def _sample(values_HW: NDArray[Any], film_HW: film.Mask | None) -> NDArray[Any]:
    """Values of the film's pixels, on a grid of about 65,536 of the image's."""
    step = max(int((values_HW.size / _SAMPLE) ** 0.5), 1)
    part_HW: NDArray[Any] = values_HW[::step, ::step]
    return part_HW if film_HW is None else part_HW[film_HW[::step, ::step]]


def _without_padding(
    codes_HW: NDArray[Any], padding: tuple[int, int] | None, where: voi.Layout, *, is_lossy: bool
) -> film.Mask | None:
    """Which codes are no padding; None: all of them.

    A lossy coding moves padding: there it is what lies near it in value, in blocks of 4 x 4 that are level at
    it and in two rings of blocks around them, where an edge rings.
    """
    if padding is None:
        return None
    low, high = (end - where.low for end in padding)
    film_HW: film.Mask
    if is_lossy:
        wide_HW = codes_HW.astype(np.int64)
        away_HW = np.maximum(low - wide_HW, wide_HW - high) / (1 << where.bits)
        film_HW = (away_HW > _RINGING) | ~_near_level(away_HW <= _FLAT)
    else:
        film_HW = (codes_HW < low) | (codes_HW > high)
    return None if film_HW.all() or not film_HW.any() else film_HW


def _near_level(is_level_HW: film.Mask) -> film.Mask:
    """The blocks that are level everywhere, and the rings of blocks around each."""
    rows, columns = is_level_HW.shape
    pads = ((0, -rows % _BLOCK), (0, -columns % _BLOCK))
    edged_HW = np.pad(is_level_HW, pads, mode="edge")
    by_block = edged_HW.reshape(len(edged_HW) // _BLOCK, _BLOCK, -1, _BLOCK)
    blocks: film.Mask = np.logical_and.reduce(by_block, axis=(1, 3))
    for _ in range(2 * _RINGS):  # down the rows, then along them
        edged = np.pad(blocks, ((1, 1), (0, 0)))
        blocks = (edged[:-2] | edged[1:-1] | edged[2:]).T
    return blocks.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:rows, :columns]


def _looked_up(
    codes_HW: NDArray[Any], table: NDArray[np.float64], film_HW: film.Mask | None
) -> tuple[NDArray[Any], float, float]:
    """(Values, gain, offset): the codes where the table is a line over the film's, else what they show."""
    low, high = 0, len(table) - 1
    line = voi.as_line(table, low, high) if high < _SMALL_TABLE else None
    if line is None or (line.low, line.high) != (low, high):  # what does not occur may bend it
        of_film = codes_HW if film_HW is None else codes_HW[film_HW]
        low, high = int(of_film.min()), int(of_film.max())
        line = voi.as_line(table, low, high)
    if line is not None:
        is_inside = line.low <= low and high <= line.high and film_HW is None
        values_HW = codes_HW if is_inside else np.clip(codes_HW, line.low, line.high)
        return values_HW, line.gain, line.offset
    table_32 = table.astype(np.float32)
    shown_HW = np.empty(codes_HW.shape, np.float32)
    for top in range(0, len(codes_HW), _ROWS_AT_ONCE):
        band = slice(top, top + _ROWS_AT_ONCE)
        np.take(table_32, codes_HW[band], out=shown_HW[band], mode="clip")
    return shown_HW, 1.0, 0.0


def _centred(values_HW: NDArray[Any], reduction: int) -> NDArray[np.float32]:
    """Values of JPEG 2000 moved from the corner to the middle of the pixels that they stand for.

    Its low-pass filters are centred on every second sample (ITU-T T.800 F.3), so a value of a reduced frame
    lies at pixel reduction * i, while the mean of its pixels lies half of them further on: there a cubic
    through four values is read. Beyond the edges the values go on as they came.
    """
    part = (reduction - 1) / (2 * reduction)
    weights = (
        -part * (part - 1) * (part - 2) / 6, (part + 1) * (part - 1) * (part - 2) / 2,
        -(part + 1) * part * (part - 2) / 2, (part + 1) * part * (part - 1) / 6,
    )  # fmt: skip
    moved_HW = values_HW.astype(np.float32)
    for _ in range(2):  # down the rows, then along them
        rows = len(moved_HW)
        edged_HW = np.pad(moved_HW, ((1, 2), (0, 0)), mode="reflect", reflect_type="odd")
        taps = (np.float32(weight) * edged_HW[i : i + rows] for i, weight in enumerate(weights))
        moved_HW = np.add.reduce(list(taps)).T
    return moved_HW
