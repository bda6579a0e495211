"""DICOMDIR (PS3.3 F): the files that a directory lists and the series of each, one record at a time.

Records hang together by byte offsets: a SERIES record points to its first IMAGE, each IMAGE to the next.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_sequence_item
from pydicom.tag import BaseTag, Tag

from engine.dicom.parse import DICOMDIR, PARSER_ERRORS, element_value, quiet
from engine.dicom.part10 import EXPLICIT_LE, read_meta
from engine.errors import HeaderError, NotDicomError

_RECORDS = Tag(0x00041220)
_NEXT, _LOWER, _TYPE, _FILE_ID = (
    Tag(0x00041400), Tag(0x00041420), Tag(0x00041430), Tag(0x00041500),
)  # fmt: skip
_SERIES_UID = Tag(0x0020000E)
_UNDEFINED = 0xFFFFFFFF
_HEAD_BYTES = 12  # tag, VR, two reserved bytes, length
_UID_CHARACTERS = frozenset("0123456789.")


class Reference(NamedTuple):
    """A listed file: its components below the folder of the DICOMDIR, and its series (empty if unknown)."""

    components: tuple[str, ...]
    series: str


def is_directory(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOMDIR."""
    try:
        return read_meta(memoryview(head)).sop_class_uid == DICOMDIR
    except NotDicomError:
        return False


def references(data: bytes) -> Iterator[Reference]:
    """The files that the directory ``data`` lists, in its order. Nothing of a patient is looked at.

    Raises:
        HeaderError, NotDicomError, TruncatedError: this is no DICOMDIR, or it is damaged.
    """
    meta = read_meta(memoryview(data))
    if meta.sop_class_uid != DICOMDIR or meta.transfer_syntax_uid != EXPLICIT_LE:
        raise HeaderError("no DICOMDIR in Explicit VR Little Endian, as the standard asks for")
    series_of = _SeriesByOffset(_records(data, meta.start))
    for offset, record in _records(data, meta.start):
        components = _components(record)
        if components:
            yield Reference(components, series_of.get(offset))


class _SeriesByOffset:
    """Which series a record belongs to, by following the offsets; some bytes a record."""

    def __init__(self, records: Iterable[tuple[int, Dataset]]) -> None:
        self._offsets, following = array("Q"), array("Q")
        self._heads: list[tuple[int, str]] = []
        for offset, record in records:
            self._offsets.append(offset)
            following.append(_offset(record, _NEXT))
            uid = str(element_value(record, _SERIES_UID) or "").strip("\0 ")
            if str(element_value(record, _TYPE)).strip() == "SERIES" and uid and set(uid) <= _UID_CHARACTERS:
                self._heads.append((_offset(record, _LOWER), uid))
        place = {offset: number for number, offset in enumerate(self._offsets)}
        self._number_N = np.full(len(place), -1, np.int64)
        for head, (offset, _) in enumerate(self._heads):
            row = place.get(offset)
            while row is not None and self._number_N[row] < 0:  # a chain that leads back to where it was ends
                self._number_N[row] = head
                row = place.get(following[row])

    def get(self, offset: int) -> str:
        row = int(np.searchsorted(np.frombuffer(self._offsets, np.uint64), offset))
        number = int(self._number_N[row])
        return self._heads[number][1] if number >= 0 else ""


def _records(data: bytes, start: int) -> Iterator[tuple[int, Dataset]]:
    """Offset (of the item, from the start of the file) and elements of each directory record."""
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        with quiet():
            read_dataset(stream, False, True, stop_when=_at_records, specific_tags=[])
        head = stream.read(_HEAD_BYTES)
    except PARSER_ERRORS as error:
        raise HeaderError(f"the DICOMDIR cannot be parsed ({type(error).__name__})") from error
    if head[:6] != b"\x04\x00\x20\x12SQ":
        raise HeaderError("the DICOMDIR has no directory records: copy it again from its medium")
    length = int.from_bytes(head[8:], "little")
    end = len(data) if length == _UNDEFINED else stream.tell() + length
    while stream.tell() < min(end, len(data)):
        offset = stream.tell()
        try:
            with quiet():
                record = read_sequence_item(stream, False, True, "iso8859")
        except PARSER_ERRORS as error:
            raise HeaderError(f"a directory record cannot be parsed ({type(error).__name__})") from error
        if record is None:
            return
        yield offset, record
    if end > len(data) and length != _UNDEFINED:
        raise HeaderError("the DICOMDIR is cut: copy it again from its medium")


def _at_records(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag >= _RECORDS)


def _components(record: Dataset) -> tuple[str, ...]:
    value = element_value(record, _FILE_ID)
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(component) for component in value) if isinstance(value, Iterable) else ()


def _offset(record: Dataset, tag: BaseTag) -> int:
    value = element_value(record, tag)
    return int(value) if isinstance(value, int) else 0
