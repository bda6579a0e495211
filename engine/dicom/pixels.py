"""Pixel element -> stored values -> modality values -> display values in [0, 1].

The chain of PS3.4 N.2 and PS3.3 C.11.1-2: modality LUT or rescale, then VOI LUT or window, then polarity.
Grey radiographs have at most 16 bits, so the whole chain becomes one table over the stored values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from engine.dicom import header as elements
from engine.dicom.decoders import DECODERS, FrameFacts, decode_frame, require_decoder
from engine.dicom.guard import EXPLICIT_BE, PARSER_ERRORS, DataSet, Limits, require_pixels
from engine.errors import HeaderError, OverLimitError, PixelDecodeError, TruncatedError

_MAX_BITS = 16


def display_values(data_set: DataSet, limits: Limits) -> NDArray[np.float32]:
    """Display values [rows, columns] of a single-frame grey image, 0 black to 1 white.

    Raises:
        HeaderError, OverLimitError, NoPixelDataError, TruncatedError, UnsupportedSyntaxError, PixelDecodeError.
    """
    header = data_set.header
    stored_HW = _unsigned_index(stored_values(data_set, limits), header)
    lut = display_lut(header)
    shown: NDArray[np.float32] = lut[stored_HW]
    return shown


def stored_values(data_set: DataSet, limits: Limits) -> NDArray[Any]:
    """Stored values [rows, columns] as the file has them, unused high bits included."""
    header = data_set.header
    facts = FrameFacts(
        rows=elements.integer(header, "Rows"),
        columns=elements.integer(header, "Columns"),
        bits_allocated=elements.integer(header, "BitsAllocated"),
        is_little_endian=data_set.transfer_syntax_uid != EXPLICIT_BE,
    )
    frames, samples = elements.integer(header, "NumberOfFrames", 1), elements.integer(header, "SamplesPerPixel", 1)
    require_decoder(data_set.transfer_syntax_uid)
    if min(facts.rows, facts.columns) < 1:
        raise HeaderError("Rows or Columns is zero")
    if facts.rows * facts.columns * max(frames, 1) * max(samples, 1) > limits.pixels:
        raise OverLimitError(f"Rows x Columns x Frames x Samples is above the cap of {limits.pixels}")
    stream = require_pixels(data_set)
    if data_set.is_encapsulated != DECODERS[data_set.transfer_syntax_uid].is_encapsulated:
        raise HeaderError("the pixel data's form contradicts the transfer syntax")
    if data_set.is_encapsulated:
        stream = _first_frame(stream)
    elif len(stream) * 8 < facts.rows * facts.columns * facts.bits_allocated:
        raise TruncatedError("the pixel data is shorter than Rows x Columns: copy the file again")
    return decode_frame(data_set.transfer_syntax_uid, stream, facts)


def display_lut(header: Dataset) -> NDArray[np.float32]:
    """Table [2 ** bits_stored] from the stored value, read as unsigned, to the display value in [0, 1].

    Without a VOI LUT or window the full range of stored values is shown; percentiles are the task's affair.
    """
    bits, is_signed = _bits(header)
    codes = np.arange(1 << bits, dtype=np.int64)
    stored = np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes) if is_signed else codes
    try:
        modality = apply_modality_lut(stored, header)
        voi = apply_voi_lut(modality, header) if _has_voi(header) else modality
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error
    shown = voi.astype(np.float64)
    low, high = shown.min(), shown.max()
    unit = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    if _is_inverted(header):
        unit = 1.0 - unit
    return unit.astype(np.float32)


def _has_voi(header: Dataset) -> bool:
    """A window of width 0 is a common way to say that there is none."""
    return "VOILUTSequence" in header or (elements.number(header, "WindowWidth") or 0.0) > 0.0


def _bits(header: Dataset) -> tuple[int, bool]:
    bits = elements.integer(header, "BitsStored", elements.integer(header, "BitsAllocated", _MAX_BITS))
    if not 1 <= bits <= _MAX_BITS:
        raise HeaderError(f"BitsStored is {bits}, a radiograph has 1 to {_MAX_BITS}")
    return bits, elements.integer(header, "PixelRepresentation", 0) == 1


def _is_inverted(header: Dataset) -> bool:
    """MONOCHROME1 shows the lowest value white; the presentation LUT shape repeats it, it does not add to it."""
    return elements.text(header, "PhotometricInterpretation") == "MONOCHROME1"


def _unsigned_index(stored_HW: NDArray[Any], header: Dataset) -> NDArray[np.uint16]:
    """Stored values as table index: the BitsStored bits below HighBit, as an unsigned number."""
    bits, _ = _bits(header)
    high_bit = elements.integer(header, "HighBit", bits - 1)
    shift = max(high_bit - bits + 1, 0)
    wide = stored_HW.astype(np.uint16, copy=False)  # two's complement: the sign bit becomes the top bit
    return (wide >> shift if shift else wide) & np.uint16((1 << bits) - 1)


def _first_frame(stream: memoryview) -> memoryview:
    try:
        return memoryview(next(generate_frames(bytes(stream), number_of_frames=1)))
    except StopIteration as error:
        raise PixelDecodeError("the encapsulated pixel data holds no frame") from error
    except PARSER_ERRORS as error:
        raise TruncatedError("the encapsulated pixel data ends early: copy the file again") from error
