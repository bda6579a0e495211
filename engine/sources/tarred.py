"""TAR archives, plain or in gzip: members read one at a time and never unpacked to a disk.

tarfile takes the headers apart. What it would take without bound (maps of sparse files, records without end,
sizes below zero) is refused before it sees it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from engine.errors import OverLimitError, SourceReadError
from engine.sources.limits import PARSER_ERRORS, ArchiveLimits, DamageError
from engine.sources.names import Places, absent, parts_inside, to_plan

_MAX_HEADER = 1 << 20  # long names and extended headers of one member, all together
_MAX_GLOBAL = 64 << 10  # an extended header that is copied to each member
_MAX_PADDING = 64 << 20  # zeros behind the end of an archive; tapes pad to some MB
_CHUNK = 1 << 20
_TYPE_AT = 156
_EXTENDED, _GLOBAL = b"xXg", b"g"
_LENGTH = re.compile(rb"(\d{1,7}) ([^=\n]{1,255})=")
_LONG_NUMBER = re.compile(rb"\d{256}")
_SPARSE = b"GNU.sparse"


class _Headers(io.RawIOBase):
    """The stream as tarfile sees it: the headers of one member, no more of them than there may be."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _MAX_HEADER
        self._kind = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def begin(self) -> None:
        """Begin another member."""
        self._left, self._kind = _MAX_HEADER, b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            raise DamageError("a header of the archive claims to be larger than any header is")
        self._left -= size
        data = _exactly(self._stream, size)
        if self._kind and self._kind in _EXTENDED:
            _require_records(data, self._kind)
        self._kind = data[_TYPE_AT : _TYPE_AT + 1] if size == tarfile.BLOCKSIZE and not self._kind else b""
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def members(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Name and header of all members but folders, in their order; of joined archives one after the other.

    Raises:
        OSError: this is no TAR archive, or it is damaged or cut.
        OverLimitError: it has too many members, or inflates too much.
    """
    count = 0
    place: int | None = 0
    while place is not None:
        for info in _headers(stream, place):
            if info.isdir() and not info.size:
                continue
            count += 1
            if count > limits.members:
                raise OverLimitError(f"the archive has more than {limits.members} members")
            yield to_plan(info.name), info
        place = _next_archive(stream)


def index(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, int]]:
    """Where each member's header stands; raises as ``members`` does."""
    return ((name, info.offset) for name, info in members(stream, limits))


def read(stream: BinaryIO, places: Places, name: str, limits: ArchiveLimits, first: int | None) -> bytes:
    """The bytes of member ``name``, or its ``first`` ones.

    Raises:
        SourceReadError: there is none, or it is no regular file.
        OverLimitError: above a cap.
        OSError: the archive is damaged.
    """
    for place in places.of(name):
        info = next(_headers(stream, place), None)
        if info is None or to_plan(info.name) != name:
            continue
        parts_inside(name)
        if not info.isreg() or info.issparse():
            raise SourceReadError("no regular file in the archive, but a link or device: only files are read")
        if info.size > limits.member_bytes:
            raise OverLimitError(f"the member has {info.size} bytes, the cap is {limits.member_bytes}")
        wanted = info.size if first is None else min(first, info.size)
        stream.seek(info.offset_data)
        data = _exactly(stream, wanted)
        if len(data) < wanted:
            raise DamageError("the archive ends inside a member")
        return data
    raise absent(name)


def _headers(stream: BinaryIO, place: int) -> Iterator[tarfile.TarInfo]:
    """The headers from that at ``place`` to the end of that archive, where the stream then stands."""
    stream.seek(place)
    headers = _Headers(stream)
    try:
        archive = tarfile.TarFile(fileobj=cast("Any", headers))
        kept: list[Any] = cast("Any", archive).members
        while True:
            headers.begin()
            before = archive.offset
            info = archive.next()
            if info is None:
                break
            if info.size < 0 or info.offset < place or archive.offset < before:
                raise DamageError("a header of the archive states a size below zero")
            kept.clear()  # tarfile would keep them all
            yield info
    except PARSER_ERRORS + (tarfile.TarError,) as error:
        raise DamageError("no TAR archive, or a damaged one") from error
    stream.seek(archive.offset)


def _next_archive(stream: BinaryIO) -> int | None:
    """Where another archive begins behind the end of one that the stream stands at; None where there is none.

    Raises:
        OSError: here is no end, but damage.
        OverLimitError: there are more zeros than any end has.
    """
    end = stream.tell()
    block = _exactly(stream, tarfile.BLOCKSIZE)
    if not block:
        raise DamageError("the archive has no end mark: it may be cut")
    if block.strip(b"\0"):  # tarfile takes any damage behind the first member for the end
        raise DamageError("the archive is damaged in its middle")
    zeros = len(block)
    while piece := _exactly(stream, _CHUNK):
        if rest := piece.lstrip(b"\0"):
            first = zeros + len(piece) - len(rest)
            return end + first - first % tarfile.BLOCKSIZE
        zeros += len(piece)
        if zeros > _MAX_PADDING:
            raise OverLimitError(f"more than {_MAX_PADDING} zeros stand behind its end")
    return None


def _require_records(data: bytes, kind: bytes) -> None:
    """Check an extended header (POSIX pax: ``LENGTH KEYWORD=VALUE``, one record behind the other).

    tarfile's own search takes quadratic time and memory over records that lie about their length.

    Raises:
        DamageError: it is none, too long, or the map of a sparse file.
    """
    if len(data) > _MAX_GLOBAL and kind == _GLOBAL:
        raise DamageError("an extended header of the archive is larger than any is")
    position, end = 0, len(data.rstrip(b"\0"))
    while position < end:
        record = _LENGTH.match(data, position)
        following = position + int(record[1]) if record else 0
        if not record or following < record.end() or data[following - 1 : following] != b"\n":
            raise DamageError("an extended header of the archive is damaged")
        if record[2].startswith(_SPARSE):
            raise DamageError("a sparse file in the archive: pack it again without --sparse")
        position = following
    if _LONG_NUMBER.search(data):
        raise DamageError("an extended header of the archive holds a number without end")


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """``count`` bytes, fewer only at the end: raw streams give what they have at hand."""
    data = bytearray()
    while len(data) < count and (piece := stream.read(min(count - len(data), _CHUNK))):
        data += piece
    return bytes(data)
