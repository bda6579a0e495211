"""The guarded door: raw bytes to a parsed header and the untouched pixel element.

pydicom never sees a file whole. We find the transfer syntax ourselves, inflate Deflated data under a cap,
let pydicom parse only whitelisted elements before the pixel data, and check sizes before any allocation.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from engine.errors import (
    EmptyFileError,
    HeaderError,
    NoPixelDataError,
    NotDicomError,
    OverLimitError,
    SopClassFilteredError,
    TruncatedError,
)

# Values that break a VR's rules are common in archives and harmless to us; the validator's warnings would
# quote them, and they may be patient data. For the same reason pydicom's own log stays shut.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR = "1.2.840.10008.1.3.10"

PIXEL_TAGS = (Tag(0x7FE00008), Tag(0x7FE00009), Tag(0x7FE00010))
_PREAMBLE_BYTES, _PREFIX = 128, b"DICM"
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError, InvalidDicomError,
    LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error,
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


@dataclass(frozen=True, slots=True)
class _Meta:
    """What stands before the data set: its syntax, its start, and the class that the meta group names."""

    transfer_syntax_uid: str
    start: int
    sop_class_uid: str = ""
    is_part_10: bool = False


def parse(data: bytes, tags: tuple[int, ...], limits: Limits) -> DataSet:
    """Parse the elements named in ``tags`` from a Part 10 file (or one that lost preamble and meta).

    Raises:
        EmptyFileError, NotDicomError, TruncatedError, HeaderError, OverLimitError.
        SopClassFilteredError: the file is a DICOMDIR.
    """
    if not data:
        raise EmptyFileError("the file is empty: copy it again from its source")
    if len(data) > limits.file_bytes:
        raise OverLimitError(f"the file has {len(data)} bytes, the cap is {limits.file_bytes}")
    meta = _meta(memoryview(data))
    if meta.sop_class_uid == DICOMDIR:
        raise SopClassFilteredError("a DICOMDIR: it lists other files and holds no image")
    syntax, start = meta.transfer_syntax_uid, meta.start
    if syntax == DEFLATED:
        data, start = _inflate(memoryview(data)[start:], limits.inflated_bytes), 0
    stream = io.BytesIO(data)
    stream.seek(start)
    is_little = syntax != EXPLICIT_BE
    try:
        with quiet():
            header = read_dataset(
                stream,
                syntax == IMPLICIT_LE,
                is_little,
                stop_when=_at_pixels,
                specific_tags=[Tag(t) for t in tags],
            )
    except PARSER_ERRORS as error:
        raise HeaderError(f"the header cannot be parsed ({type(error).__name__})") from error
    if len(header) == 0 and meta.is_part_10:
        raise HeaderError("the data set is cut, or holds none of the elements of an image")
    if len(header) == 0:
        raise NotDicomError("no DICOM element was found: this is another kind of file")
    value, is_encapsulated, is_truncated = _pixel_element(
        memoryview(data), stream.tell(), is_little=is_little
    )
    return DataSet(header, syntax, value, is_encapsulated, is_truncated)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings while pydicom reads elements: they may quote the values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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


def _meta(data: memoryview) -> _Meta:
    """Where the data set starts and how it is written.

    Raises:
        NotDicomError, TruncatedError.
    """
    after_prefix = _PREAMBLE_BYTES + len(_PREFIX)
    if bytes(data[_PREAMBLE_BYTES:after_prefix]) == _PREFIX:
        return _read_meta(data, after_prefix)
    group = bytes(data[:2])
    if group == b"\x02\x00" and bytes(data[4:6]).isalpha():
        return _read_meta(data, 0)
    if group == b"\x08\x00":  # a bare data set, written before Part 10 or by old tools
        return _Meta(_guess_syntax(data), 0)
    if group == b"\x00\x08":
        return _Meta(EXPLICIT_BE, 0)
    raise NotDicomError("no DICM prefix and no DICOM element at the start: this is another kind of file")


def _read_meta(data: memoryview, position: int) -> _Meta:
    """Walk group 0002, always explicit little endian; its length element is often wrong, so not used."""
    uids = {0x0002: "", 0x0010: ""}
    while position + 8 <= len(data) and bytes(data[position : position + 2]) == b"\x02\x00":
        (element,) = struct.unpack_from("<H", data, position + 2)
        is_long = bytes(data[position + 4 : position + 6]) in _LONG_VRS
        start = position + (12 if is_long else 8)
        if start > len(data):
            raise TruncatedError("the file meta group ends early: copy the file again from its source")
        (length,) = struct.unpack_from("<I" if is_long else "<H", data, start - (4 if is_long else 2))
        if start + length > len(data):
            raise TruncatedError("the file meta group ends early: copy the file again from its source")
        if element in uids:
            uids[element] = bytes(data[start : start + length]).decode("ascii", "replace").strip("\0 ")
        position = start + length
    if position >= len(data):
        raise TruncatedError("the file ends after its meta group: copy it again from its source")
    syntax = uids[0x0010] or _guess_syntax(data[position:])
    return _Meta(syntax, position, uids[0x0002], is_part_10=True)


def _guess_syntax(data_set: memoryview) -> str:
    vr = bytes(data_set[4:6])
    return EXPLICIT_LE if vr.isalpha() and vr.isupper() else IMPLICIT_LE


def _inflate(deflated: memoryview, cap: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(deflated, cap)
    except zlib.error as error:
        raise TruncatedError("the deflated data set is damaged: copy the file again") from error
    if inflater.eof:
        return inflated
    if len(inflated) >= cap:
        raise OverLimitError(f"the deflated data set grows beyond the cap of {cap} bytes")
    raise TruncatedError("the deflated data set ends early: copy the file again from its source")


def _pixel_element(
    data: memoryview, position: int, *, is_little: bool
) -> tuple[memoryview | None, bool, bool]:
    """(value, is encapsulated, is truncated) of the pixel element at ``position``; value None: there is none.

    The element tells by itself whether it has a VR: the lengths of implicit elements are even, so they never
    look like one. Some files are written otherwise than their transfer syntax says.
    """
    order = "<" if is_little else ">"
    head = 12 if bytes(data[position + 4 : position + 6]) in _LONG_VRS else 8
    if position + head > len(data):
        return None, False, False
    group, element = struct.unpack_from(order + "HH", data, position)
    if Tag(group, element) not in PIXEL_TAGS:
        return None, False, False
    (length,) = struct.unpack_from(order + "I", data, position + head - 4)
    start = position + head
    if length == _UNDEFINED:
        return data[start:], True, False
    return data[start : start + length], False, start + length > len(data)
