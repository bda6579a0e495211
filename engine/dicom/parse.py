"""The guarded door: raw bytes to a parsed header and the untouched pixel element.

pydicom never sees a file whole. We find the transfer syntax ourselves, inflate Deflated data only as far
as the image needs, scan the header under caps, and let pydicom parse no more than the whitelisted elements.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from struct import error as StructError
from struct import pack, unpack_from
from typing import Any, Literal

import pydicom.config
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from engine.dicom import companions, element_scan
from engine.dicom.part10 import (
    DEFLATED,
    Inflater,
    Meta,
    has_prefix,
    is_little_endian,
    read_meta,
)
from engine.errors import (
    CompanionError,
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

DICOMDIR = "1.2.840.10008.1.3.10"

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_FLOAT_TAGS = frozenset({0x7FE00008, 0x7FE00009})
_FIRST_LOOK = 1 << 16  # bytes; most headers are shorter
_TAG_BYTES = 4
_LOOK_FURTHER = 8  # times, for those that are not
PARSER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError, InvalidDicomError,
    LookupError, OSError, RuntimeError, TypeError, ValueError, StructError,
)  # fmt: skip
"""What pydicom raises on malformed input; every one of them means the header is unusable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(element_scan.Caps):
    """Caps checked before memory is spent."""

    file_bytes: int = 512 << 20
    inflated_bytes: int = 512 << 20
    inflated_ratio: int = 200
    """Inflated bytes for each deflated one, beyond ``inflated_floor``."""
    inflated_floor: int = 32 << 20
    """A data set may always inflate to this many bytes: an empty film deflates a thousandfold."""
    pixels: int = 1 << 28
    """Rows x Columns x Frames x Samples."""

    def inflated(self, deflated_bytes: int) -> int:
        """How far a data set of ``deflated_bytes`` may inflate."""
        return min(self.inflated_bytes, max(self.inflated_floor, self.inflated_ratio * deflated_bytes))


@dataclass(frozen=True, slots=True)
class DataSet:
    """A parsed header, and the value of the pixel data element as it lies in the file."""

    header: Dataset
    transfer_syntax_uid: str
    pixel_value: memoryview | None
    is_encapsulated: bool
    is_truncated: bool
    is_little_endian: bool = True
    is_float: bool = False
    """Whether the pixel element is Float or Double Float Pixel Data."""
    is_in_words: bool = False
    """Whether it is written as 16-bit words (OW), so that big endian ones turn pairs of bytes round."""


@dataclass(frozen=True, slots=True)
class _PixelElement:
    value_at: int
    length: int
    is_float: bool
    is_in_words: bool


def parse(data: bytes, tags: tuple[int, ...], limits: Limits) -> DataSet:
    """Parse the elements named in ``tags`` from a Part 10 file (or one that lost preamble and meta).

    Raises:
        EmptyFileError, NotDicomError, TruncatedError, HeaderError, OverLimitError.
        SopClassFilteredError: the file is a DICOMDIR.
        CompanionError: it is surely another kind of file.
    """
    if not data:
        raise EmptyFileError("the file is empty: copy it again from its source")
    if len(data) > limits.file_bytes:
        raise OverLimitError(f"the file has {len(data)} bytes, the cap is {limits.file_bytes}")
    meta = _meta(data)
    if meta.sop_class_uid == DICOMDIR:
        raise SopClassFilteredError("a DICOMDIR: it lists other files and holds no image")
    wanted = frozenset(tags)
    if meta.transfer_syntax_uid == DEFLATED:
        return _parse_deflated(memoryview(data)[meta.start :], meta, wanted, limits)
    whole = memoryview(data)
    is_little = is_little_endian(whole[meta.start :], meta.transfer_syntax_uid)
    found = element_scan.find(whole, meta.start, wanted, limits, is_little=is_little)
    header = _header(whole, found, meta, is_little=is_little)
    return _data_set(whole, found, header, meta, is_little=is_little)


def _meta(data: bytes) -> Meta:
    """What stands before the data set.

    Raises:
        CompanionError, NotDicomError, TruncatedError, HeaderError.
    """
    try:
        if not has_prefix(data) and companions.is_container(data):
            raise NotDicomError("several files in one: give an archive its ending .zip or .tar, or unpack it")
        return read_meta(memoryview(data))
    except NotDicomError:
        kind = companions.kind_of(data)
        if kind:
            raise CompanionError(f"no DICOM file but {kind}") from None
        raise


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
    if data_set.is_truncated:
        raise TruncatedError("the file ends within its header or pixel data: copy it again from its source")
    if data_set.pixel_value is None:
        raise NoPixelDataError("the data set ends before any pixel data: the copy is cut, or holds no image")
    return data_set.pixel_value


def element_value(header: Dataset, key: str | BaseTag) -> Any:
    """The value under a keyword or tag as pydicom converts it; None where absent or broken."""
    try:
        with quiet():
            return header[key].value if key in header else None
    except PARSER_ERRORS:
        return None


def elements_found(data: memoryview, found: element_scan.Found, *, is_little: bool) -> Dataset:
    """The elements that a scan found, and nothing else, through pydicom.

    Raises:
        HeaderError: pydicom cannot parse them.
    """
    stream = io.BytesIO(b"".join(_span(data, found, *span, is_little=is_little) for span in found.spans))
    try:
        with quiet():
            return read_dataset(stream, found.is_implicit, is_little)
    except PARSER_ERRORS as error:
        raise HeaderError(f"the header cannot be parsed ({type(error).__name__})") from error


def _span(data: memoryview, found: element_scan.Found, start: int, end: int, *, is_little: bool) -> bytes:
    """A found element as it lies in the file; with a VR where that field holds none."""
    if start not in found.mended:
        return bytes(data[start:end])
    value_at, vr = found.mended[start]
    order = "<" if is_little else ">"
    group, element = unpack_from(order + "HH", data, start)
    tag = group << 16 | element
    vr = vr or (dictionary_VR(tag)[:2].encode() if dictionary_has_tag(tag) else b"UN")
    is_long = vr in element_scan.LONG_VRS
    length = pack(order + ("HI" if is_long else "H"), *((0,) if is_long else ()), end - value_at)
    return bytes(data[start : start + 4]) + vr + length + bytes(data[value_at:end])


def _header(data: memoryview, found: element_scan.Found, meta: Meta, *, is_little: bool) -> Dataset:
    """The wanted elements, where they are enough to go on.

    Raises:
        HeaderError, NotDicomError, TruncatedError.
    """
    header = elements_found(data, found, is_little=is_little)
    if found.is_cut and not (_SOP_CLASS in header and _SOP_INSTANCE in header):
        raise TruncatedError("the file ends within its header: copy it again from its source")
    if len(header) == 0 and meta.is_part_10:
        raise HeaderError("the data set is cut, or holds none of the elements of an image")
    if len(header) == 0:
        raise NotDicomError("no DICOM element was found: this is another kind of file")
    for tag, uid in ((_SOP_CLASS, meta.sop_class_uid), (_SOP_INSTANCE, meta.sop_instance_uid)):
        if uid and not str(element_value(header, BaseTag(tag)) or "").strip("\0 "):
            header[tag] = DataElement(tag, "UI", uid)  # the data set says nothing: the file meta does
    return header


def _data_set(
    data: memoryview, found: element_scan.Found, header: Dataset, meta: Meta, *, is_little: bool
) -> DataSet:
    syntax = meta.transfer_syntax_uid
    pixels = _pixel_element(data, found, is_little=is_little)
    if found.pixel_at is None or pixels is None:
        return DataSet(header, syntax, None, False, found.is_cut or found.pixel_at is not None, is_little)
    is_encapsulated = pixels.length == element_scan.UNDEFINED
    end = len(data) if is_encapsulated else pixels.value_at + pixels.length
    value = data[pixels.value_at : end]
    if data[end : end + _TAG_BYTES] == data[found.pixel_at : found.pixel_at + _TAG_BYTES]:
        raise HeaderError(
            "two pixel data elements: nobody knows which is the image"
        )  # PS3.5 7.1: one at most
    is_cut = end > len(data)
    return DataSet(
        header, syntax, value, is_encapsulated, is_cut, is_little, pixels.is_float, pixels.is_in_words
    )


def _pixel_element(data: memoryview, found: element_scan.Found, *, is_little: bool) -> _PixelElement | None:
    """The head of the pixel element; None where there is none, or it is cut.

    The element tells by itself whether it has a VR: the lengths of implicit elements are even, so they never
    look like one. Some files are written otherwise than their transfer syntax says.
    """
    if found.pixel_at is None:
        return None
    order: Literal["little", "big"] = "little" if is_little else "big"
    at = found.pixel_at
    vr = bytes(data[at + 4 : at + 6]).upper()
    head = 12 if vr in {b"OB", b"OW", b"OF", b"OD", b"UN"} else 8
    if element_scan.is_blank(vr) and not found.is_implicit and at + 12 <= len(data):
        length = int.from_bytes(data[at + 8 : at + 12], order)
        head = 12 if length == element_scan.UNDEFINED or at + 12 + length == len(data) else 8
    if at + head > len(data):
        return None
    length = int.from_bytes(data[at + head - 4 : at + head], order)
    group, element = (int.from_bytes(data[at + i : at + i + 2], order) for i in (0, 2))
    return _PixelElement(at + head, length, (group << 16 | element) in _FLOAT_TAGS, vr == b"OW")


def _parse_deflated(deflated: memoryview, meta: Meta, wanted: frozenset[int], limits: Limits) -> DataSet:
    """Inflate the header, then as much of the pixel data as the image needs."""
    inflater = Inflater(deflated, limits.inflated(len(deflated)))
    size = _FIRST_LOOK
    while True:
        inflater.grow_to(size)
        with memoryview(inflater.data) as view:
            is_little = is_little_endian(view, meta.transfer_syntax_uid)
            found = element_scan.find(view, 0, wanted, limits, is_little=is_little)
            pixels = _pixel_element(view, found, is_little=is_little)
            if pixels is not None or inflater.is_at_end:
                header = _header(view, found, meta, is_little=is_little)
                break
        size *= _LOOK_FURTHER
    if pixels is not None:
        needed = min(pixels.length, 2 * _claimed_bytes(header))  # what is too much shows by then
        inflater.grow_to(pixels.value_at + needed)
        value = memoryview(inflater.data)[pixels.value_at : pixels.value_at + needed]
        is_encapsulated = pixels.length == element_scan.UNDEFINED
        is_cut = len(value) < needed and not is_encapsulated
        return DataSet(header, DEFLATED, value, is_encapsulated, is_cut, is_little, pixels.is_float)
    return DataSet(header, DEFLATED, None, False, True, is_little)


def _claimed_bytes(header: Dataset) -> int:
    """Bytes of all frames by the header; without a claim none are needed: the reader says what is wrong."""
    product = 1
    for keyword, default in (
        ("Rows", 0), ("Columns", 0), ("BitsAllocated", 0), ("SamplesPerPixel", 1), ("NumberOfFrames", 1),
    ):  # fmt: skip
        try:
            with quiet():
                product *= max(int(header.get(keyword) or default), 0)
        except PARSER_ERRORS:
            return 0
    return (product + 7) // 8
