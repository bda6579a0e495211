"""ZIP and TAR archives, alone or lying in a tree of files: which names are archives, and their indexes."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from engine.errors import OverLimitError, SourceReadError
from engine.sources import tarred, zipped
from engine.sources.gzipped import GzipStream, Points
from engine.sources.limits import MOST_SIZE, PARSER_ERRORS, ArchiveLimits, DamageError
from engine.sources.listing import Entry
from engine.sources.names import INSIDE, Places

ZIP, TAR, TAR_GZ = (".zip",), (".tar",), (".tar.gz", ".tgz")
SUFFIXES = (*ZIP, *TAR, *TAR_GZ)
_KEPT_INDEXES = 8
_PREFIX_AT, _PREFIX = 128, b"DICM"
PREFIX_BYTES = _PREFIX_AT + len(_PREFIX)

BROKEN = (DamageError, OverLimitError, *PARSER_ERRORS)
"""What ends the listing of an archive for good; any other OSError is the disk's or the network's."""

Opener = Callable[[], BinaryIO]
"""Gives a new stream over the same archive, which can be sought in."""


def is_archive(path: str) -> bool:
    """Whether the name says that there are members in it."""
    return path.lower().endswith(SUFFIXES)


def split(path: str) -> tuple[str, str] | None:
    """(archive, member) of a path like ``a/b.zip!/member``; None for any other."""
    start = path.find(INSIDE)
    while start >= 0:
        if is_archive(path[:start]):
            return path[:start], path[start + len(INSIDE) :]
        start = path.find(INSIDE, start + 1)
    return None


def require_no_archive(path: str, head: bytes) -> None:
    """Refuse what is named as an archive and is no DICOM file; only members one level deep are planned.

    Raises:
        SourceReadError: it is such a thing.
    """
    if is_archive(path) and head[_PREFIX_AT : _PREFIX_AT + len(_PREFIX)] != _PREFIX:
        raise SourceReadError(
            "an archive that is empty, damaged, above a cap or itself in an archive: mend or unpack it"
        )


@dataclass(slots=True)
class _Index:
    stamp: object
    places: Places
    points: Points
    failure: str = ""
    """Why there is no more in ``places``; empty where all members are."""


@dataclass(slots=True)
class Archives:
    """Reads members of archives; keeps the indexes of the last few. For several threads."""

    limits: ArchiveLimits = ArchiveLimits()
    _indexes: OrderedDict[str, _Index] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def members(self, name: str, opener: Opener) -> Iterator[Entry]:
        """Path inside and size of every member but folders.

        Raises:
            OSError: the archive called ``name`` cannot be opened, is none, or is damaged.
            OverLimitError: it is above a cap.
        """
        with opener() as stream:
            if name.lower().endswith(ZIP):
                for member in zipped.members(stream, self.limits):
                    yield Entry(member.name, _size(member.size))
            else:
                for path, info in tarred.members(self._plain(name, stream, Points()), self.limits):
                    yield Entry(path, _size(info.size))

    def read(
        self, name: str, opener: Opener, member: str, *, stamp: object, max_bytes: int, first: int | None
    ) -> bytes:
        """The bytes of a member, or its ``first`` ones; ``stamp`` is another one when the archive changed.

        Raises:
            SourceReadError: there is no such member, or it is none that is read.
            OverLimitError: it is above a cap.
            OSError: the archive cannot be read, or is damaged.
        """
        limits = replace(self.limits, member_bytes=min(max_bytes, self.limits.member_bytes))
        with opener() as stream, self._lock:
            index = self._index(name, stream, stamp)
            if index.failure and next(index.places.of(member), None) is None:
                raise SourceReadError(f"what follows in the archive cannot be read: {index.failure}")
            if name.lower().endswith(ZIP):
                return zipped.read(stream, index.places, member, limits, first)
            return tarred.read(self._plain(name, stream, index.points), index.places, member, limits, first)

    def _index(self, name: str, stream: BinaryIO, stamp: object) -> _Index:
        found = self._indexes.get(name)
        if found is None or found.stamp != stamp:
            points, failures = Points(), list[str]()
            places = (
                zipped.index(stream, self.limits)
                if name.lower().endswith(ZIP)
                else tarred.index(self._plain(name, stream, points), self.limits)
            )
            kept = Places(_until_broken(places, failures))
            found = self._indexes[name] = _Index(stamp, kept, points, "".join(failures))
            if len(self._indexes) > _KEPT_INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(name)
        return found

    def _plain(self, name: str, stream: BinaryIO, points: Points) -> BinaryIO:
        if not name.lower().endswith(TAR_GZ):
            return stream
        return cast("BinaryIO", io.BufferedReader(GzipStream(stream, self.limits, points), 1 << 16))


def _until_broken(members: Iterator[tuple[str, int]], failures: list[str]) -> Iterator[tuple[str, int]]:
    """The members before the damage of an archive, which is told once and not looked for at each read."""
    try:
        yield from members
    except BROKEN as error:
        failures.append(reason(error))


def _size(stated: int) -> int:
    return stated if stated <= MOST_SIZE else -1


def reason(error: Exception) -> str:
    """The cause in the system's words, or in ours; of a parser's own error its kind."""
    if isinstance(error, OSError):
        return error.strerror or "unknown reason"
    return type(error).__name__ if isinstance(error, PARSER_ERRORS) else str(error)
