"""Pixel element -> stored values -> modality values -> display values in [0, 1].

The chain of PS3.4 N.2 and PS3.3 C.11.1-2: modality LUT or rescale, then VOI LUT or window, then polarity.
Grey radiographs have at most 16 bits, so the whole chain becomes one table over the stored values.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from engine.dicom import header as elements
from engine.dicom.decoders import FrameFacts, decode_frame, require_decoder
from engine.dicom.guard import EXPLICIT_BE, PARSER_ERRORS, DataSet, Limits, quiet, require_pixels
from engine.errors import HeaderError, MultiFrameError, NotGrayscaleError, OverLimitError, TruncatedError

Values = NDArray[np.float64]

_MAX_BITS = 16
_ROWS_AT_ONCE = 64  # the index of a whole image leaves the processor's cache: 4 times slower
_ITEM, _ITEM_TAG, _DELIMITER_TAG = struct.Struct("<II"), 0xE000FFFE, 0xE0DDFFFE


def display_values(data_set: DataSet, limits: Limits) -> NDArray[np.float32]:
    """Display values [rows, columns] of a single-frame grey image, 0 black to 1 white.

    Raises:
        HeaderError, OverLimitError, NoPixelDataError, TruncatedError, UnsupportedSyntaxError,
        PixelDecodeError, NotGrayscaleError, MultiFrameError.
    """
    header = data_set.header
    lut = display_lut(header)
    stored_HW = _unsigned_index(stored_values(data_set, limits), header)
    shown_HW = np.empty(stored_HW.shape, np.float32)
    for top in range(0, len(stored_HW), _ROWS_AT_ONCE):
        band = slice(top, top + _ROWS_AT_ONCE)
        np.take(lut, stored_HW[band], out=shown_HW[band], mode="clip")
    return shown_HW


def stored_values(data_set: DataSet, limits: Limits) -> NDArray[Any]:
    """Stored values [rows, columns] as the file has them, unused high bits included.

    Raises:
        HeaderError, OverLimitError, NoPixelDataError, TruncatedError, UnsupportedSyntaxError,
        PixelDecodeError, NotGrayscaleError, MultiFrameError.
    """
    header = data_set.header
    facts = FrameFacts(
        rows=elements.integer(header, "Rows"),
        columns=elements.integer(header, "Columns"),
        bits_allocated=elements.integer(header, "BitsAllocated"),
        is_little_endian=data_set.transfer_syntax_uid != EXPLICIT_BE,
    )
    decoder = require_decoder(data_set.transfer_syntax_uid)
    _require_one_grey_frame(header, facts, limits)
    stream = require_pixels(data_set)
    if data_set.is_encapsulated != decoder.is_encapsulated:
        raise HeaderError("the pixel data's form contradicts the transfer syntax")
    if data_set.is_encapsulated:
        stream = _frame(stream)
    elif len(stream) * 8 < facts.rows * facts.columns * facts.bits_allocated:
        raise TruncatedError("the pixel data is shorter than Rows x Columns: copy the file again")
    return decode_frame(data_set.transfer_syntax_uid, stream, facts)


def display_lut(header: Dataset) -> NDArray[np.float32]:
    """Table [2 ** bits_stored] from the stored value, read as unsigned, to the display value in [0, 1].

    A window maps to [0, 1] as PS3.3 C.11.2.1.2 says; a VOI LUT by the range of its own values. Without either
    the full range of stored values is shown; percentiles are the task's affair.

    Raises:
        HeaderError: an element of the chain has no sense.
    """
    bits, is_signed = _bits(header)
    codes = np.arange(1 << bits, dtype=np.int64)
    stored = np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes) if is_signed else codes
    try:
        with quiet(), np.errstate(all="ignore"):
            unit = _shown(_modality_values(stored, header), header)
    except PARSER_ERRORS as error:
        raise HeaderError(f"a modality or VOI element has no sense ({type(error).__name__})") from error
    if not np.isfinite(unit).all():
        raise HeaderError("a modality or VOI element is beyond all numbers")
    # MONOCHROME1 shows the lowest value white; PresentationLUTShape repeats that, it does not add to it.
    is_inverted = elements.text(header, "PhotometricInterpretation") == "MONOCHROME1"
    return (1.0 - unit if is_inverted else unit).astype(np.float32)


def _require_one_grey_frame(header: Dataset, facts: FrameFacts, limits: Limits) -> None:
    frames = max(elements.integer(header, "NumberOfFrames", 1), 1)
    samples = max(elements.integer(header, "SamplesPerPixel", 1), 1)
    if min(facts.rows, facts.columns) < 1:
        raise HeaderError("Rows or Columns is zero")
    if facts.rows * facts.columns * frames * samples > limits.pixels:
        raise OverLimitError(f"Rows x Columns x Frames x Samples is above the cap of {limits.pixels}")
    if samples > 1:
        raise NotGrayscaleError("colour pixels: this is no radiograph")
    if frames > 1:
        raise MultiFrameError("several frames: only single projection images are read")


def _modality_values(stored: NDArray[np.int64], header: Dataset) -> NDArray[Any]:
    """PS3.3 C.11.1: the modality LUT where there is one, else slope and intercept."""
    if header.get("ModalityLUTSequence"):
        looked_up: NDArray[Any] = apply_modality_lut(stored, header)
        return looked_up
    slope = elements.finite(header, "RescaleSlope", 1.0)
    if slope == 0.0:
        raise HeaderError("RescaleSlope is zero")
    return stored * slope + elements.finite(header, "RescaleIntercept", 0.0)


def _shown(modality: NDArray[Any], header: Dataset) -> Values:
    """PS3.3 C.11.2: VOI LUT, else window, else the whole range; a width of 0 often says: no window."""
    center, width = elements.number(header, "WindowCenter"), elements.number(header, "WindowWidth")
    if header.get("VOILUTSequence"):
        return _whole_range(apply_voi(modality, header))
    if center is None or width is None or width <= 0.0:
        return _whole_range(modality)
    return _windowed(modality, center, width, elements.text(header, "VOILUTFunction") or "LINEAR")


def _whole_range(values: NDArray[Any]) -> Values:
    wide: Values = values.astype(np.float64)
    low, high = wide.min(), wide.max()
    return (wide - low) / (high - low) if high > low else np.zeros_like(wide)


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


def _bits(header: Dataset) -> tuple[int, bool]:
    """(BitsStored, whether stored values are signed)."""
    allocated = elements.integer(header, "BitsAllocated", _MAX_BITS)
    bits = elements.integer(header, "BitsStored", allocated)
    if not 1 <= bits <= min(allocated, _MAX_BITS):
        raise HeaderError(f"BitsStored is {bits} of {allocated}, a radiograph has 1 to {_MAX_BITS}")
    return bits, elements.integer(header, "PixelRepresentation", 0) == 1


def _unsigned_index(stored_HW: NDArray[Any], header: Dataset) -> NDArray[np.uint16]:
    """Stored values as table index: the BitsStored bits below HighBit, as an unsigned number."""
    bits, _ = _bits(header)
    high_bit = elements.integer(header, "HighBit", bits - 1)
    if high_bit >= elements.integer(header, "BitsAllocated", _MAX_BITS):
        raise HeaderError("HighBit is not below BitsAllocated")
    shift = max(high_bit - bits + 1, 0)
    low_HW = stored_HW >> shift if shift else stored_HW
    index_HW: NDArray[np.uint16] = low_HW.astype(np.uint16, copy=False)  # the sign bit becomes the top bit
    return index_HW if bits == _MAX_BITS else index_HW & np.uint16((1 << bits) - 1)


def _frame(stream: memoryview) -> memoryview:
    """The code stream of the only frame: all fragments after the offset table (PS3.5 A.4).

    A missing sequence delimiter is forgiven, a fragment cut short is not.

    Raises:
        TruncatedError, HeaderError.
    """
    fragments: list[memoryview] = []
    position = 0
    while position + _ITEM.size <= len(stream):
        tag, length = _ITEM.unpack_from(stream, position)
        if tag == _DELIMITER_TAG:
            break
        if tag != _ITEM_TAG:
            raise HeaderError("the encapsulated pixel data holds something else than fragments")
        position += _ITEM.size + length
        if position > len(stream):
            raise TruncatedError("the encapsulated pixel data ends early: copy the file again")
        fragments.append(stream[position - length : position])
    if not any(len(fragment) for fragment in fragments[1:]):
        raise TruncatedError("the encapsulated pixel data holds no frame: copy the file again")
    return fragments[1] if len(fragments[1:]) == 1 else memoryview(b"".join(fragments[1:]))
