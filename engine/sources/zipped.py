"""ZIP archives: the members of the central directory, read one at a time and never unpacked to a disk.

The directory is walked as it lies in the file (APPNOTE 6.3.9, sections 4.3 and 4.5.3), so that an archive of
a million members costs a few bytes for each.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from engine.errors import OverLimitError, SourceReadError
from engine.sources.limits import MOST_SIZE, ArchiveLimits, DamageError, check_growth
from engine.sources.names import Places, absent, parts_inside, to_plan

_END, _END_64_PLACE, _END_64, _ENTRY, _LOCAL = (
    b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06", b"PK\x01\x02", b"PK\x03\x04",
)  # fmt: skip
_END_BYTES, _MAX_COMMENT, _PLACE_BYTES = 22, 0xFFFF, 20
_ENTRY_HEAD = struct.Struct("<4sxB2xHH4xIIIHHHHHII")
_LOCAL_HEAD = struct.Struct("<4s22xHH")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _UTF8 = 0x0001 | 0x0040 | 0x2000, 0x0800
_STORED, _DEFLATED = 0, 8
_CHUNK = 256 << 10
_MOST_JOINED = 1000
_UNIX = 3
_FOLDER_BYTES = 2  # an empty Deflate stream


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
    is_folder: bool


@dataclass(frozen=True, slots=True)
class _Directory:
    """A central directory; ``shift`` is what stands before its archive, ``behind`` what follows its end."""

    start: int
    end: int
    shift: int
    count: int
    behind: bytes


def members(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[Member]:
    """All members but folders, in the order of the directory; of joined archives one after the other.

    Raises:
        OSError: this is no ZIP archive, or its directory is damaged.
        OverLimitError: it has too many members, or more in them than such an archive can hold.
    """
    size = stream.seek(0, io.SEEK_END)
    directories = _directories(stream)
    count = sum(directory.count for directory in directories)
    if count > limits.members:
        raise OverLimitError(f"the archive has {count} members, the cap is {limits.members}")
    packed = inflated = 0
    for directory in directories:
        place, found = directory.start, 0
        while place < directory.end:
            member, place = _entry(stream, place, directory.shift)
            found += 1
            if member.is_folder:
                continue
            if member.packed <= size and member.size <= limits.member_bytes:  # others are refused when read
                packed, inflated = packed + member.packed, inflated + member.size
            if packed > size:
                raise OverLimitError(
                    "several members lie over the same bytes, as no image does: not unpacked"
                )
            if inflated > limits.all_inflated_bytes:
                raise OverLimitError(
                    f"its members have more than {limits.all_inflated_bytes} bytes: unpack it"
                )
            yield member
        if found != directory.count:
            raise DamageError("the directory of the archive does not hold as many members as it says")
    if directories[-1].behind.strip(b"\0"):
        raise DamageError("something stands behind the end of the archive")


def index(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, int]]:
    """Where each member's entry stands; raises as ``members`` does."""
    return ((member.name, member.place) for member in members(stream, limits))


def read(stream: BinaryIO, places: Places, name: str, limits: ArchiveLimits, first: int | None) -> bytes:
    """The bytes of member ``name``, or its ``first`` ones.

    Raises:
        SourceReadError: there is none, or it is encrypted, no regular file, or packed in another way.
        OverLimitError: above a cap.
        OSError: the archive is damaged.
    """
    directories = _directories(stream)
    for place in places.of(name):
        shift = next(found.shift for found in directories if place < found.end)
        member, _ = _entry(stream, place, shift)
        if member.name == name:
            _check(member, limits)
            if member.start + member.packed > directories[-1].end:
                raise DamageError("a member of the archive is longer than the archive")
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
        raise DamageError("a member does not stand where the directory of the archive says")
    stream.seek(member.start + _LOCAL_HEAD.size + name_bytes + extra_bytes)
    wanted = member.size if first is None else min(first, member.size)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == _DEFLATED else None
    data, left = bytearray(), member.packed
    while len(data) < wanted and left:
        piece = stream.read(min(_CHUNK, left))
        if not piece:
            raise DamageError("the archive ends inside a member")
        left -= len(piece)
        try:
            data += inflater.decompress(piece, member.size + 1 - len(data)) if inflater else piece
        except zlib.error as error:
            raise DamageError("a member of the archive is damaged") from error
    if first is None:
        if inflater and not inflater.eof and len(data) <= member.size:
            data += inflater.flush()
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise DamageError("a member of the archive is damaged: its size or checksum is another one")
    return bytes(data[:wanted])


def _directories(stream: BinaryIO) -> list[_Directory]:
    """The central directories of all archives that were joined to this one, in their order.

    Mostly it is one; what stands before it is another archive where that ends right there.
    """
    found = [_directory(stream, stream.seek(0, io.SEEK_END))]
    while found[0].shift and len(found) < _MOST_JOINED:
        try:
            before = _directory(stream, found[0].shift)
        except DamageError:
            break
        if before.behind:
            break
        found.insert(0, before)
    return found


def _directory(stream: BinaryIO, size: int) -> _Directory:
    """The central directory of the archive that ends at ``size``, or a comment before that."""
    tail_at = max(size - _END_BYTES - _MAX_COMMENT, 0)
    tail = _at(stream, tail_at, size - tail_at)
    found = tail.rfind(_END)
    if found < 0 or found + _END_BYTES > len(tail):
        raise DamageError("no ZIP archive, or its end is missing")
    disk, first_disk, _, count, length, offset, comment = struct.unpack_from("<HHHHIIH", tail, found + 4)
    end = tail_at + found
    behind = tail[found + _END_BYTES + comment :]
    if _FULL_16 in (count, disk) or _FULL_32 in (length, offset):
        place_at = end - _PLACE_BYTES
        place = _at(stream, place_at, _PLACE_BYTES) if place_at >= 0 else b""
        if place[:4] == _END_64_PLACE:
            (end,) = struct.unpack_from("<Q", place, 8)
            head = _at(stream, end, 56)
            if head[:4] != _END_64:
                raise DamageError("the ZIP64 end of the archive is damaged")
            disk, first_disk, _, count, length, offset = struct.unpack_from("<IIQQQQ", head, 16)
    if disk or first_disk:
        raise DamageError("the archive is one of several volumes: join them first")
    shift = end - length - offset
    if length > end or shift < 0:
        raise DamageError("the directory of the archive does not fit into it")
    return _Directory(end - length, end, shift, count, behind)


def _entry(stream: BinaryIO, place: int, shift: int) -> tuple[Member, int]:
    """The entry at ``place``, and where the next one stands."""
    head = _ENTRY_HEAD.unpack(_at(stream, place, _ENTRY_HEAD.size))
    signature, maker, flags, method, crc, packed, size, name_bytes, extra_bytes, note_bytes = head[:10]
    mode, start = head[-2:]
    if signature != _ENTRY:
        raise DamageError("the directory of the archive is damaged")
    variable = _at(stream, place + _ENTRY_HEAD.size, name_bytes + extra_bytes)
    raw = variable[:name_bytes]
    name = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
    size, packed, start = _wide(variable[name_bytes:], size, packed, start)
    is_empty = not size and packed <= _FOLDER_BYTES
    ends_as_folder = name.endswith("/") or (name.endswith("\\") and maker != _UNIX)
    member = Member(
        to_plan(name), place, flags, method, crc, packed, size, mode >> 16, start + shift,
        is_folder=is_empty and ends_as_folder,
    )  # fmt: skip
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
    if not 0 <= place <= MOST_SIZE:
        raise DamageError("a place in the archive lies outside it")
    stream.seek(place)
    data = stream.read(count)
    if len(data) != count:
        raise DamageError("the archive ends early")
    return data
