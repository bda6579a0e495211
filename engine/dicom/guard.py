"""The guarded door: raw bytes to a parsed header and the untouched pixel element.

pydicom never sees a file whole. We find the transfer syntax ourselves, inflate Deflated data under a cap,
let pydicom parse only whitelisted elements before the pixel data, and check sizes before any allocation.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from engine.errors import (
    EmptyFileError,
    HeaderError,
    NoPixelDataError,
    NotDicomError,
    OverLimitError,
    TruncatedError,
)

# Values that break a VR's rules are common in archives and harmless to us; the validator's warnings would
# quote them, and they may be patient data.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

PIXEL_TAGS = (Tag(0x7FE00008), Tag(0x7FE00009), Tag(0x7FE00010))
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b.encode() for b in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, IndexError, KeyError, NotImplementedError,
    OSError, RecursionError, TypeError, ValueError, struct.error,
)  # fmt: skip
"""What pydicom raises on malformed input; every one of them means the header is unusable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps checked before memory is spent."""

    file_bytes: int = 512 << 20
    inflated_bytes: int = 512 << 20
    pixels: int = 1 << 28
    """Rows x Columns x Frames x Samples."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A parsed header, and the value of the pixel data element as it lies in the file."""

    header: Dataset
    transfer_syntax_uid: str
    pixel_value: memoryview | None
    is_encapsulated: bool
    is_truncated: bool


def parse(data: bytes, tags: tuple[int, ...], limits: Limits) -> DataSet:
    """Parse the elements named in ``tags`` from a Part 10 file (or one that lost preamble and meta).

    Raises:
        EmptyFileError, NotDicomError, TruncatedError, HeaderError, OverLimitError.
    """
    if not data:
        raise EmptyFileError("the file is empty: copy it again from its source")
    if len(data) > limits.file_bytes:
        raise OverLimitError(f"the file has {len(data)} bytes, the cap is {limits.file_bytes}")
    syntax, body = _split_meta(memoryview(data))
    if syntax == DEFLATED:
        body = memoryview(_inflate(body, limits.inflated_bytes))
    is_implicit, is_little = syntax == IMPLICIT_LE, syntax != EXPLICIT_BE
    stream = io.BytesIO(body)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote element values
            header = read_dataset(
                stream, is_implicit, is_little, stop_when=_at_pixels, specific_tags=[Tag(t) for t in tags]
            )
    except PARSER_ERRORS as error:
        raise HeaderError(f"the header cannot be parsed ({type(error).__name__})") from error
    if len(header) == 0:
        raise NotDicomError("no DICOM element was found: this is another kind of file")
    value, is_encapsulated, is_truncated = _pixel_element(
        body, stream.tell(), is_implicit=is_implicit, is_little=is_little
    )
    return DataSet(header, syntax, value, is_encapsulated, is_truncated)


def require_pixels(data_set: DataSet) -> memoryview:
    """The pixel value of an image.

    Raises:
        NoPixelDataError, TruncatedError.
    """
    if data_set.pixel_value is None:
        raise NoPixelDataError("the data set ends before any pixel data: the copy is cut, or holds no image")
    if data_set.is_truncated:
        raise TruncatedError("the pixel data ends early: copy the file again from its source")
    return data_set.pixel_value


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in PIXEL_TAGS


def _split_meta(data: memoryview) -> tuple[str, memoryview]:
    """Transfer syntax UID and the bytes after the file meta group."""
    if len(data) >= 132 and bytes(data[128:132]) == b"DICM":
        return _read_meta(data, 132)
    group, first_vr = bytes(data[:2]), bytes(data[4:6])
    if group == b"\x02\x00" and first_vr.isalpha():
        return _read_meta(data, 0)
    if group in (b"\x08\x00", b"\x00\x08"):  # a bare data set, written before Part 10 or by old tools
        if group == b"\x00\x08":
            return EXPLICIT_BE, data
        return ("1.2.840.10008.1.2.1" if first_vr.isalpha() and first_vr.isupper() else IMPLICIT_LE), data
    raise NotDicomError("no DICM prefix and no DICOM element at the start: this is another kind of file")


def _read_meta(data: memoryview, position: int) -> tuple[str, memoryview]:
    """Walk group 0002, always explicit little endian; its length element is often wrong, so not used."""
    syntax = ""
    while position + 8 <= len(data) and bytes(data[position : position + 2]) == b"\x02\x00":
        element, vr = bytes(data[position + 2 : position + 4]), bytes(data[position + 4 : position + 6])
        if vr in _LONG_VRS:
            if position + 12 > len(data):
                raise TruncatedError("the file meta group ends early: copy the file again from its source")
            (length,) = struct.unpack_from("<I", data, position + 8)
            start = position + 12
        else:
            (length,) = struct.unpack_from("<H", data, position + 6)
            start = position + 8
        if start + length > len(data):
            raise TruncatedError("the file meta group ends early: copy the file again from its source")
        if element == b"\x10\x00":
            syntax = bytes(data[start : start + length]).decode("ascii", "replace").strip("\0 ")
        position = start + length
    if position >= len(data):
        raise TruncatedError("the file ends after its meta group: copy it again from its source")
    return syntax or _guess_syntax(data[position:]), data[position:]


def _guess_syntax(body: memoryview) -> str:
    return "1.2.840.10008.1.2.1" if bytes(body[4:6]).isalpha() else IMPLICIT_LE


def _inflate(body: memoryview, cap: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, cap)
    except zlib.error as error:
        raise TruncatedError("the deflated data set is damaged: copy the file again") from error
    if inflater.unconsumed_tail:
        raise OverLimitError(f"the deflated data set grows beyond the cap of {cap} bytes")
    return inflated


def _pixel_element(
    body: memoryview, position: int, *, is_implicit: bool, is_little: bool
) -> tuple[memoryview | None, bool, bool]:
    """(value, is encapsulated, is truncated) of the pixel element at ``position``; None where there is none."""
    order = "<" if is_little else ">"
    head = 8 if is_implicit else 12
    if position + head > len(body):
        return None, False, False
    group, element = struct.unpack_from(order + "HH", body, position)
    if Tag(group, element) not in PIXEL_TAGS:
        return None, False, False
    (length,) = struct.unpack_from(order + "I", body, position + head - 4)
    start = position + head
    if length == _UNDEFINED:
        return body[start:], True, False
    return body[start : start + length], False, start + length > len(body)
