"""TAR archives, plain or in gzip: members read one at a time and never unpacked to a disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from errno import EIO
from typing import Any, BinaryIO, cast

from engine.errors import OverLimitError, SourceReadError
from engine.sources.limits import ArchiveLimits
from engine.sources.names import Places, absent, parts_inside, to_plan

_PARSER_ERRORS = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
_MAX_HEADER = 1 << 20  # long names and extended headers; a claim beyond that is an attack on memory


class _Headers(io.RawIOBase):
    """The stream as tarfile sees it: no read larger than a header may be."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise OSError(EIO, "a header of the archive claims to be larger than any header is")
        return _exactly(self._stream, size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def members(stream: BinaryIO, limits: ArchiveLimits) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Name and header of all members but folders, in their order.

    Raises:
        OSError: this is no TAR archive, or it is damaged.
        OverLimitError: it has too many members, or inflates too much.
    """
    archive = _open(stream, 0)
    archive_members: list[Any] = cast("Any", archive).members
    count = 0
    while (info := _next(archive)) is not None:
        archive_members.clear()  # tarfile would keep them all
        if info.isdir():
            continue
        count += 1
        if count > limits.members:
            raise OverLimitError(f"the archive has more than {limits.members} members")
        yield to_plan(info.name), info
    # tarfile takes any damage behind the first member for the end.
    stream.seek(archive.offset)
    block = _exactly(stream, tarfile.BLOCKSIZE)
    if block.strip(b"\0") and len(block) == tarfile.BLOCKSIZE:
        raise OSError(EIO, "the archive is damaged in its middle")


def index(stream: BinaryIO, limits: ArchiveLimits) -> Places:
    """Where each member's header stands; raises as ``members`` does."""
    return Places((name, info.offset) for name, info in members(stream, limits))


def read(stream: BinaryIO, places: Places, name: str, limits: ArchiveLimits, first: int | None) -> bytes:
    """The bytes of member ``name``, or its ``first`` ones.

    Raises:
        SourceReadError: there is none, or it is no regular file.
        OverLimitError: above a cap.
        OSError: the archive is damaged.
    """
    for place in places.of(name):
        info = _next(_open(stream, place))
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
            raise OSError(EIO, "the archive ends inside a member")
        return data
    raise absent(name)


def _open(stream: BinaryIO, place: int) -> tarfile.TarFile:
    """The archive from the header at ``place`` on, which tarfile reads at once."""
    stream.seek(place)
    try:
        return tarfile.TarFile(fileobj=cast("Any", _Headers(stream)))
    except _PARSER_ERRORS as error:
        raise OSError(EIO, "no TAR archive, or a damaged one") from error


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except _PARSER_ERRORS as error:
        raise OSError(EIO, "no TAR archive, or a damaged one") from error


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """``count`` bytes, fewer only at the end: raw streams give what they have at hand."""
    data = bytearray()
    while len(data) < count and (piece := stream.read(min(count - len(data), 1 << 20))):
        data += piece
    return bytes(data)
