"""ZIP archives: the members of the central directory, read one at a time and never unpacked to a disk.

The directory is walked as it lies in the file (APPNOTE 6.3.9, sections 4.3 and 4.5.3), so that an archive of
a million members costs a few bytes for each.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EIO
from typing import BinaryIO

from engine.errors import OverLimitError, SourceReadError
from engine.sources.limits import ArchiveLimits, check_growth
from engine.sources.names import Places, absent, parts_inside, to_plan

_END, _END_64_PLACE, _END_64, _ENTRY, _LOCAL = (
    b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06", b"PK\x01\x02", b"PK\x03\x04",
)  # fmt: skip
_END_BYTES, _MAX_COMMENT, _PLACE_BYTES = 22, 0xFFFF, 20
_ENTRY_HEAD = struct.Struct("<4s4xHH4xIIIHHHHHII")
_LOCAL_HEAD = struct.Struct("<4s22xHH")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800
_STORED, _DEFLATED = 0, 8
_CHUNK = 256 << 10


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the central directory; ``place`` is where the entry stands, ``start`` its local header."""

    name: str
    place: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    start: int


def members(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[Member]:
    """All members but folders, in the order of the directory.

    Raises:
        OSError: this is no ZIP archive, or its directory is damaged.
        OverLimitError: it has too many members.
    """
    place, end, shift, count = _directory(stream)
    if count > limits.members:
        raise OverLimitError(f"the archive has {count} members, the cap is {limits.members}")
    found = 0
    while place < end:
        member, place = _entry(stream, place, shift)
        found += 1
        if not member.name.endswith("/"):
            yield member
    if found != count:
        raise OSError(EIO, "the directory of the archive does not hold as many members as it says")


def index(stream: BinaryIO, limits: ArchiveLimits) -> Places:
    """Where each member's entry stands; raises as ``members`` does."""
    return Places((member.name, member.place) for member in members(stream, limits))


def read(stream: BinaryIO, places: Places, name: str, limits: ArchiveLimits, first: int | None) -> bytes:
    """The bytes of member ``name``, or its ``first`` ones.

    Raises:
        SourceReadError: there is none, or it is encrypted, no regular file, or packed in another way.
        OverLimitError: above a cap.
        OSError: the archive is damaged.
    """
    shift = _directory(stream)[2]
    for place in places.of(name):
        member, _ = _entry(stream, place, shift)
        if member.name == name:
            _check(member, limits)
            return _content(stream, member, first)
    raise absent(name)


def _check(member: Member, limits: ArchiveLimits) -> None:
    parts_inside(member.name)
    if member.flags & _ENCRYPTED:
        raise SourceReadError("the member is encrypted: give the archive unpacked")
    if stat.S_IFMT(member.mode) and not stat.S_ISREG(member.mode):
        raise SourceReadError("no regular file in the archive, but a link or device: only files are read")
    if member.method not in (_STORED, _DEFLATED):
        raise SourceReadError(f"the member is packed by method {member.method}: unpack it, or use Deflate")
    if member.size > limits.member_bytes:
        raise OverLimitError(f"the member has {member.size} bytes, the cap is {limits.member_bytes}")
    check_growth(member.size, member.packed, limits)


def _content(stream: BinaryIO, member: Member, first: int | None) -> bytes:
    signature, name_bytes, extra_bytes = _LOCAL_HEAD.unpack(_at(stream, member.start, _LOCAL_HEAD.size))
    if signature != _LOCAL:
        raise OSError(EIO, "a member does not stand where the directory of the archive says")
    stream.seek(member.start + _LOCAL_HEAD.size + name_bytes + extra_bytes)
    wanted = member.size if first is None else min(first, member.size)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == _DEFLATED else None
    data, left = bytearray(), member.packed
    while len(data) < wanted and left:
        piece = stream.read(min(_CHUNK, left))
        if not piece:
            raise OSError(EIO, "the archive ends inside a member")
        left -= len(piece)
        try:
            data += inflater.decompress(piece, member.size + 1 - len(data)) if inflater else piece
        except zlib.error as error:
            raise OSError(EIO, "a member of the archive is damaged") from error
    if first is None:
        if inflater and not inflater.eof and len(data) <= member.size:
            data += inflater.flush()
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise OSError(EIO, "a member of the archive is damaged: its size or checksum is another one")
    return bytes(data[:wanted])


def _directory(stream: BinaryIO) -> tuple[int, int, int, int]:
    """(start, end, shift, members) of the central directory; ``shift`` is what stands before the archive."""
    size = stream.seek(0, 2)
    tail_at = max(size - _END_BYTES - _MAX_COMMENT, 0)
    tail = _at(stream, tail_at, size - tail_at)
    found = tail.rfind(_END)
    if found < 0 or found + _END_BYTES > len(tail):
        raise OSError(EIO, "no ZIP archive, or its end is missing")
    disk, first_disk, _, count, length, offset = struct.unpack_from("<HHHHII", tail, found + 4)
    end = tail_at + found
    if _FULL_16 in (count, disk) or _FULL_32 in (length, offset):
        place_at = end - _PLACE_BYTES
        place = _at(stream, place_at, _PLACE_BYTES) if place_at >= 0 else b""
        if place[:4] == _END_64_PLACE:
            (end,) = struct.unpack_from("<Q", place, 8)
            head = _at(stream, end, 56)
            if head[:4] != _END_64:
                raise OSError(EIO, "the ZIP64 end of the archive is damaged")
            disk, first_disk, _, count, length, offset = struct.unpack_from("<IIQQQQ", head, 16)
    if disk or first_disk:
        raise OSError(EIO, "the archive is one of several volumes: join them first")
    shift = end - length - offset
    if length > end or shift < 0:
        raise OSError(EIO, "the directory of the archive does not fit into it")
    return end - length, end, shift, count


def _entry(stream: BinaryIO, place: int, shift: int) -> tuple[Member, int]:
    """The entry at ``place``, and where the next one stands."""
    head = _ENTRY_HEAD.unpack(_at(stream, place, _ENTRY_HEAD.size))
    signature, flags, method, crc, packed, size, name_bytes, extra_bytes, note_bytes, *_, mode, start = head
    if signature != _ENTRY:
        raise OSError(EIO, "the directory of the archive is damaged")
    variable = _at(stream, place + _ENTRY_HEAD.size, name_bytes + extra_bytes)
    raw = variable[:name_bytes]
    name = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
    size, packed, start = _wide(variable[name_bytes:], size, packed, start)
    member = Member(to_plan(name), place, flags, method, crc, packed, size, mode >> 16, start + shift)
    return member, place + _ENTRY_HEAD.size + name_bytes + extra_bytes + note_bytes


def _wide(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """The 64-bit values where the 32-bit ones are full (4.5.3)."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            field = extra[position + 4 : position + 4 + length]
            values = list(struct.unpack_from(f"<{len(field) // 8}Q", field))
            wide = [values.pop(0) if v == _FULL_32 and values else v for v in (size, packed, start)]
            return wide[0], wide[1], wide[2]
        position += 4 + length
    return size, packed, start


def _at(stream: BinaryIO, place: int, count: int) -> bytes:
    stream.seek(place)
    data = stream.read(count)
    if len(data) != count:
        raise OSError(EIO, "the archive ends early")
    return data
