"""The outside of a file: preamble, file meta group, and a Deflated data set (PS3.10 section 7, PS3.5 A.5)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from engine.dicom.element_scan import LONG_VRS, VRS, is_blank
from engine.errors import HeaderError, NotDicomError, OverLimitError, TruncatedError

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

_PREAMBLE_BYTES, _PREFIX = 128, b"DICM"
_META_GROUP = b"\x02\x00"
_LOST_WITHIN = 1024  # a prefix that is not where it should be is looked for no further
_PIECE = 1 << 20
_MOST_META = 1 << 20  # bytes of one element; more is no length


@dataclass(frozen=True, slots=True)
class Meta:
    """What stands before the data set: its syntax, its start, and what the meta group says the image is."""

    transfer_syntax_uid: str
    start: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    is_part_10: bool = False


def read_meta(data: memoryview) -> Meta:
    """Where the data set starts and how it is written; preamble, prefix and meta group may be missing.

    Raises:
        NotDicomError, TruncatedError, HeaderError.
    """
    start = _meta_start(data)
    if start is not None:
        return _walk_meta(data, start)
    if bytes(data[:2]) in {b"\x08\x00", b"\x00\x08"}:  # a bare data set, from before Part 10 or of old tools
        return Meta(_guessed_syntax(data), 0)
    raise NotDicomError(
        "no DICM prefix, no DICOM element at the start, and no other known kind of file: fetch it again"
    )


def has_prefix(data: bytes) -> bool:
    """Whether DICM stands where it should."""
    return data.startswith(_PREFIX, _PREAMBLE_BYTES)


def is_little_endian(data_set: memoryview, transfer_syntax_uid: str) -> bool:
    """The byte order as the first group number shows it; the stated one where that number tells nothing."""
    low, high = bytes(data_set[:2]) if len(data_set) > 1 else (0, 0)
    if bool(low) != bool(high):
        return bool(low)
    return transfer_syntax_uid != EXPLICIT_BE


def _meta_start(data: memoryview) -> int | None:
    prefix_end = _PREAMBLE_BYTES + len(_PREFIX)
    if bytes(data[_PREAMBLE_BYTES:prefix_end]) == _PREFIX:
        is_bare = _starts_bare(data) and bytes(data[prefix_end : prefix_end + 2]) != _META_GROUP
        return None if is_bare else prefix_end
    for start in (0, len(_PREFIX), _PREAMBLE_BYTES, prefix_end):
        if bytes(data[start : start + 2]) != _META_GROUP or not bytes(data[start + 4 : start + 6]).isalpha():
            continue
        if start != len(_PREFIX) or bytes(data[:start]) == _PREFIX:
            return start
    lost = bytes(data[:_LOST_WITHIN]).find(_PREFIX + _META_GROUP)
    return lost + len(_PREFIX) if lost >= 0 else None


def _starts_bare(data: memoryview) -> bool:
    """Whether a data set begins at the first byte: an element of group 0008, low as the first ones are.

    A value in it may read DICM where a preamble ends.
    """
    group, element = bytes(data[:2]), bytes(data[2:4])
    return (group == b"\x08\x00" and element[1] == 0) or (group == b"\x00\x08" and element[0] == 0)


def _meta_head(data: memoryview, position: int, *, is_in_order: bool) -> tuple[int, int]:
    """Where the value of an element of the meta group starts, and its length.

    Behind a blank VR field the length has two bytes, or four after two zeros, or four in the field's place:
    whichever leads to the next element. Any other field without a VR holds the length, as where the element
    is not in order: something was written over it.
    """
    vr = bytes(data[position + 4 : position + 6]).upper()
    ways = [(8, "<H", 6), (12, "<I", 8), (8, "<I", 4)]
    if not is_blank(vr) or not is_in_order:
        ways = [ways[vr in LONG_VRS] if vr.isalpha() else ways[2]]
    for head, kind, at in ways:
        if position + head > len(data):
            raise TruncatedError("the file meta group ends early: copy the file again from its source")
        (length,) = struct.unpack_from(kind, data, position + at)
        following = bytes(data[position + head + length :][:2])
        if following in {_META_GROUP, b"\x08\x00", b"\x00\x08"} and (length or not is_blank(vr)):
            break
    return position + head, length


def _walk_meta(data: memoryview, position: int) -> Meta:
    """Walk group 0002, always explicit little endian; its length element is often wrong, so not used."""
    uids, last = {0x0002: "", 0x0003: "", 0x0010: ""}, -1
    while position + 8 <= len(data) and bytes(data[position : position + 2]) == _META_GROUP:
        (element,) = struct.unpack_from("<H", data, position + 2)
        start, length = _meta_head(data, position, is_in_order=element > last)
        last = element
        if length > _MOST_META:
            raise HeaderError("the file meta group is damaged: copy the file again from its source")
        if start + length > len(data):
            raise TruncatedError("the file meta group ends early: copy the file again from its source")
        if element in uids:
            uids[element] = bytes(data[start : start + length]).decode("ascii", "replace").strip("\0 ")
        position = start + length
    if position >= len(data):
        raise TruncatedError("the file ends after its meta group: copy it again from its source")
    if position + 8 > len(data):
        raise TruncatedError("the file ends within an element: copy it again from its source")
    syntax = uids[0x0010] or _guessed_syntax(data[position:])
    return Meta(syntax, position, uids[0x0002], uids[0x0003], is_part_10=True)


def _guessed_syntax(data_set: memoryview) -> str:
    if bytes(data_set[:2]) == b"\x00\x08":
        return EXPLICIT_BE
    vr = bytes(data_set[4:6])
    return EXPLICIT_LE if vr.isalpha() and vr.upper() in VRS else IMPLICIT_LE


class Inflater:
    """A Deflated data set, inflated from its start as far as somebody asks, never beyond ``cap`` bytes."""

    def __init__(self, deflated: memoryview, cap: int) -> None:
        """Nothing is inflated yet; ``cap`` is in bytes of the inflated data set."""
        self._rest, self._cap = bytes(deflated), cap
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self.data = bytearray()
        """What has been inflated so far; let go of every view on it before ``grow_to``."""
        self._has_zlib_header = self.is_at_end = False

    def grow_to(self, size: int) -> None:
        """Inflate until ``size`` bytes are there, or the stream has ended.

        Raises:
            OverLimitError: ``size`` is beyond the cap and the stream goes on to it.
            TruncatedError: the stream is damaged.
        """
        while len(self.data) < min(size, self._cap) and not self.is_at_end:
            step = min(_PIECE, min(size, self._cap) - len(self.data))
            self.data += self._piece(step)
        if size > self._cap and not self.is_at_end and self._piece(1):
            raise OverLimitError(f"the deflated data set grows beyond the cap of {self._cap} bytes")

    def _piece(self, most: int) -> bytes:
        try:
            piece = self._inflate.decompress(self._rest, most)
        except zlib.error as error:
            if self.data or not self._rest or self._has_zlib_header:
                raise TruncatedError("the deflated data set is damaged: copy the file again") from error
            self._has_zlib_header = True  # some writers put one before the stream
            self._inflate = zlib.decompressobj()
            return self._piece(most)
        self._rest = self._inflate.unconsumed_tail
        self.is_at_end = self._inflate.eof or not piece
        return piece
