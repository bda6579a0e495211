"""Where the wanted elements of a data set lie, found without reading any value.

The scan goes over tags and lengths only (PS3.5 section 7), under caps on depth and count, and hands
pydicom the few elements that somebody asked for. So what else a file holds (private elements, deep or
broken sequences, encapsulated icons) costs no memory and cannot mislead the parser.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.errors import HeaderError, OverLimitError

UNDEFINED = 0xFFFFFFFF
PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
"""Float, double float and integer pixel data: the scan ends before them."""

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MARKS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_SHORT_HEAD, _LONG_HEAD = 8, 12
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""VRs whose length has four bytes (PS3.5 7.1.2)."""
VRS = LONG_VRS | frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
     b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip
"""All of PS3.5 6.2."""
_LITTLE_ITEMS = (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0")
_BYTE_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """What a header may cost."""

    depth: int = 32
    """Of nested sequences."""
    elements: int = 200_000
    """Of a header, those in sequences included."""
    header_bytes: int = 32 << 20
    """Of the whitelisted elements together."""


@dataclass(frozen=True, slots=True)
class Found:
    """Wanted elements as (start, end), the place of the pixel element, and whether the header is cut."""

    spans: tuple[tuple[int, int], ...]
    pixel_at: int | None
    is_cut: bool
    is_implicit: bool
    mended: dict[int, tuple[int, bytes]]
    """Where a wanted element starts whose VR field is blank or in small letters -> its value, and its VR."""


@dataclass(frozen=True, slots=True)
class _Head:
    tag: int
    vr: bytes
    value_at: int
    length: int
    is_mended: bool = False


class _CutError(Exception):
    """The data end where an element goes on."""


def find(data: memoryview, start: int, wanted: frozenset[int], caps: Caps, *, is_little: bool) -> Found:
    """Scan the data set that begins at ``start`` up to its pixel element or its end.

    An element that claims more bytes than there are ends the scan (``is_cut``); a sequence without its
    delimiter ends where something else than an item follows; stray delimiters, and zeros after the end,
    are passed over.

    Raises:
        OverLimitError: one of the caps is reached.
        HeaderError: a wanted element stands twice, and not with the same value (PS3.5 7.1: once at most).
    """
    scan = _Scan(data, caps, is_little=is_little)
    is_implicit = scan.is_implicit(start)
    mended: dict[int, tuple[int, bytes]] = {}
    spans: dict[int, tuple[int, int]] = {}
    position, wanted_bytes, pixel_at, is_cut = start, 0, None, False
    try:
        while position + _SHORT_HEAD <= len(data):
            head = scan.head(position, is_implicit=is_implicit)
            if head.tag in PIXEL_TAGS:
                pixel_at = position
                break
            if head.tag == 0 and head.length == 0:
                break
            if head.tag in _MARKS:
                position += _SHORT_HEAD
                continue
            is_wanted = head.tag in wanted
            end = scan.end_of(head, is_implicit=is_implicit, enters=is_wanted, depth=0)
            if is_wanted:
                scan.require_once(spans, head.tag, (position, end))
                if head.is_mended:
                    mended[position] = (head.value_at, head.vr)
                wanted_bytes += end - position
                if wanted_bytes > caps.header_bytes:
                    raise OverLimitError(f"the header elements exceed the cap of {caps.header_bytes} bytes")
            position = end
        else:
            is_cut = any(data[position:])  # the first bytes of an element's head
    except _CutError:
        is_cut = True
    return Found(tuple(spans.values()), pixel_at, is_cut, is_implicit, mended)


class _Scan:
    """A count of elements that one scan shares between its levels."""

    def __init__(self, data: memoryview, caps: Caps, *, is_little: bool) -> None:
        order = "<" if is_little else ">"
        self._data, self._caps = data, caps
        self._tag = struct.Struct(order + "HH")
        self._short, self._long = struct.Struct(order + "H"), struct.Struct(order + "I")
        self._count = 0

    def require_once(self, seen: dict[int, tuple[int, int]], tag: int, span: tuple[int, int]) -> None:
        """Note where an element of a data set or an item stands; the same one again harms nobody.

        Raises:
            HeaderError: it was seen with another value.
        """
        first, last = seen.setdefault(tag, span)
        if self._data[first:last] != self._data[span[0] : span[1]]:
            named = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
            raise HeaderError(f"element {named} stands twice: nobody knows which value holds")

    def head(self, position: int, *, is_implicit: bool) -> _Head:
        """Tag, VR and length of the element at ``position``; without VR it counts as implicit."""
        self._count += 1
        if self._count > self._caps.elements:
            raise OverLimitError(f"the header has more than {self._caps.elements} elements")
        try:
            group, element = self._tag.unpack_from(self._data, position)
            tag = group << 16 | element
            vr = b"" if is_implicit or tag in _MARKS else bytes(self._data[position + 4 : position + 6])
            if not _is_vr(vr):
                odd = self._odd(tag, position, vr)
                if odd:
                    return odd
                (length,) = self._long.unpack_from(self._data, position + 4)
                return _Head(tag, b"", position + _SHORT_HEAD, length)
            if vr in LONG_VRS:
                (length,) = self._long.unpack_from(self._data, position + 8)
                return _Head(tag, vr, position + _LONG_HEAD, length)
            (length,) = self._short.unpack_from(self._data, position + 6)
            return _Head(tag, vr, position + _SHORT_HEAD, length)
        except struct.error as error:
            raise _CutError from error

    def is_implicit(self, start: int) -> bool:
        """Whether the data set at ``start`` has no VRs, by the first element whose VR field is not odd."""
        position = start
        while position + _SHORT_HEAD <= len(self._data):
            vr = bytes(self._data[position + 4 : position + 6])
            odd = None if _is_vr(vr) else self._odd(0, position, vr)
            if odd is None or odd.length == UNDEFINED:
                return not _is_vr(vr)
            position = odd.value_at + odd.length
        return True

    def _odd(self, tag: int, position: int, vr: bytes) -> _Head | None:
        """The head of an element whose VR field is blank, NUL, ``??`` or in small letters; None: it has none.

        Its length has two bytes, or four behind two that are zero, whichever leads to the next element.
        """
        own = vr.upper() if vr.upper() in VRS else b""
        if not vr or not (own or is_blank(vr)):
            return None
        (short,) = self._short.unpack_from(self._data, position + 6)
        ways = [(position + _SHORT_HEAD, short)] if own not in LONG_VRS else []
        if short == 0 and position + _LONG_HEAD <= len(self._data) and (own in LONG_VRS or not own):
            ways.append((position + _LONG_HEAD, *self._long.unpack_from(self._data, position + 8)))
        for value_at, length in ways:
            if length == UNDEFINED or self._goes_on(tag, value_at + length):
                return _Head(tag, own, value_at, length, is_mended=True)
        return None

    def _goes_on(self, tag: int, end: int) -> bool:
        """Whether an element, a delimiter or the end of the data follows there."""
        if end + _SHORT_HEAD > len(self._data):
            return end == len(self._data)
        group, element = self._tag.unpack_from(self._data, end)
        after, vr = group << 16 | element, bytes(self._data[end + 4 : end + 6])
        if after in _MARKS or after in PIXEL_TAGS or vr in VRS:
            return True
        return after > tag and (vr.upper() in VRS or is_blank(vr))

    def end_of(self, head: _Head, *, is_implicit: bool, enters: bool, depth: int) -> int:
        """Where the element ends; ``enters`` also counts what lies in a sequence of known length."""
        if head.length == UNDEFINED:
            inner = is_implicit or (head.vr in {b"", b"UN"} and not (head.is_mended and not head.vr))
            scan = self._little() if self._is_turned(head) else self
            end = scan._items(
                head.value_at, len(self._data), inner, enters and head.vr not in _BYTE_VRS, depth + 1
            )
            self._count = scan._count
            return end
        end = head.value_at + head.length
        if end > len(self._data):
            raise _CutError
        is_sequence = head.vr == b"SQ" or (is_implicit and self._starts_with_item(head))
        if enters and is_sequence:
            self._items(head.value_at, end, is_implicit, enters, depth + 1)
        return end

    def _is_turned(self, head: _Head) -> bool:
        """Whether it is big endian around little endian items: UN of undefined length (PS3.5 6.2.2)."""
        return self._tag.format[0] == ">" and self._data[head.value_at : head.value_at + 4] in _LITTLE_ITEMS

    def _little(self) -> _Scan:
        scan = _Scan(self._data, self._caps, is_little=True)
        scan._count = self._count
        return scan

    def _starts_with_item(self, head: _Head) -> bool:
        if head.length < _SHORT_HEAD:
            return False
        group, element = self._tag.unpack_from(self._data, head.value_at)
        return bool(group << 16 | element == _ITEM)

    def _items(self, position: int, end: int, is_implicit: bool, enters: bool, depth: int) -> int:
        if depth > self._caps.depth:
            raise OverLimitError(f"sequences are nested deeper than {self._caps.depth}")
        while position + _SHORT_HEAD <= end:
            head = self.head(position, is_implicit=True)
            if head.tag == _SEQUENCE_END:
                return position + _SHORT_HEAD
            if head.tag == _ITEM_END:
                position += _SHORT_HEAD
            elif head.tag != _ITEM:
                return position  # the delimiter is missing: what follows is the next element
            elif head.length == UNDEFINED:
                position = self._elements(head.value_at, end, is_implicit, enters, depth)
            else:
                item_end = head.value_at + head.length
                if item_end > len(self._data):
                    raise _CutError
                if enters:
                    self._elements(head.value_at, item_end, is_implicit, enters, depth)
                position = item_end
        if end == len(self._data) and position != end:
            raise _CutError
        return position

    def _elements(self, position: int, end: int, is_implicit: bool, enters: bool, depth: int) -> int:
        seen: dict[int, tuple[int, int]] = {}
        while position + _SHORT_HEAD <= end:
            head = self.head(position, is_implicit=is_implicit)
            if head.tag == _ITEM_END:
                return position + _SHORT_HEAD
            if head.tag in _MARKS:
                return position
            element_end = self.end_of(head, is_implicit=is_implicit, enters=enters, depth=depth)
            if enters:
                self.require_once(seen, head.tag, (position, element_end))
            position = element_end
        return position


def is_blank(vr: bytes) -> bool:
    """Whether a VR field holds blanks, NULs or question marks."""
    return not vr.strip(b"\0 ?")


def _is_vr(text: bytes) -> bool:
    return text.isalpha() and text.isupper()
