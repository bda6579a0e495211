"""Sources of files: a folder, a prefix of an object store, an archive alone; archives lie in any of them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import OverLimitError, SourceReadError, UsageError
from engine.sources import gzipped
from engine.sources.archives import (
    BROKEN,
    PREFIX_BYTES,
    Archives,
    is_archive,
    reason,
    require_no_archive,
    split,
)
from engine.sources.listing import Entry
from engine.sources.names import INSIDE, LABELS_NAME, absent, from_plan, parts_inside, to_plan

_PIECE = 4096
LINKS, SPECIAL, VANISHED = (
    "links not followed", "pipes, sockets and devices not read", "files gone while the folder was listed",
)  # fmt: skip
"""Kinds of what a folder has, is not planned, and is counted."""
REST = "not-all-listed"
"""Stands for the members of an archive alone that follow its damage: planned, and refused when it is read."""


class Store(Protocol):
    """Where files lie by path."""

    passed_over: Counter[str]
    """What ``walk`` passed over, by kind."""

    def walk(self) -> Iterator[Entry]:
        """Every regular file below the root. Raises OSError where it cannot be listed."""

    def open(self, path: str) -> tuple[BinaryIO, int, object]:
        """Stream, bytes and a stamp that changes with them. Raises OSError, SourceReadError."""


class Tree:
    """Files of a store, and the members of the archives among them (``a/b.zip!/member``)."""

    def __init__(self, store: Store) -> None:
        """Read nothing yet."""
        self._store = store
        self._archives = Archives()
        self.tell: Callable[[str], None] | None = None
        self.broken: frozenset[str] = frozenset()

    @property
    def passed_over(self) -> Counter[str]:
        """What the last listing passed over, by kind."""
        return self._store.passed_over

    def entries(self) -> Iterator[Entry]:
        """Every file and member once; an archive that cannot be listed is an entry itself.

        Raises:
            OSError: the store cannot be listed.
        """
        for entry in self._store.walk():
            if entry.path == LABELS_NAME:
                continue
            if is_archive(entry.path):
                yield from self._members(entry)
            else:
                yield entry

    def read(self, path: str, max_bytes: int, first: int | None) -> bytes:
        """The bytes of a file or member, or its ``first`` ones.

        Raises:
            OverLimitError, SourceReadError.
            OSError: the store failed.
        """
        inside = split(path)
        if inside is not None and self._is_file(inside[0]):
            if self._is_file(path):
                raise SourceReadError("a file and a member of an archive have the same path: rename one")
            return self._member(*inside, max_bytes, first)
        stream, size, _ = self._store.open(path)
        with stream:
            if path.lower().endswith(gzipped.SUFFIX) and not is_archive(path):
                return gzipped.inflated_file(stream, self._archives.limits, max_bytes)[:first]
            if is_archive(path):  # its own row says that not all of it was listed: most likely no DICOM file
                require_no_archive(path, stream.read(PREFIX_BYTES))
                stream.seek(0)
            if size > max_bytes:
                raise OverLimitError(f"the file has {size} bytes, the cap is {max_bytes}")
            data = stream.read() if first is None else stream.read(first)
        require_no_archive(path, data)
        return data

    def _members(self, entry: Entry) -> Iterator[Entry]:
        if self.tell:
            self.tell(entry.path)
        if entry.path in self.broken:
            yield entry
            return
        is_empty = True
        try:
            for member in self._archives.members(entry.path, lambda: self._store.open(entry.path)[0]):
                is_empty = False
                yield Entry(f"{entry.path}{INSIDE}{member.path}", member.size_bytes)
        except (OSError, SourceReadError, *BROKEN):
            is_empty = True  # what could be listed is planned, and the archive itself says that it is not all
        if is_empty:
            yield entry

    def _member(self, archive: str, member: str, max_bytes: int, first: int | None) -> bytes:
        stream, _, stamp = self._store.open(archive)
        with stream:
            data = self._archives.read(
                archive, lambda: stream, member, stamp=stamp, max_bytes=max_bytes, first=first
            )
        require_no_archive(member, data)
        return data

    def _is_file(self, path: str) -> bool:
        try:
            stream, _, _ = self._store.open(path)
        except (OSError, SourceReadError):
            return False
        stream.close()
        return True


class Folder:
    """A folder tree. Links and devices are passed over, so a read never leaves the root."""

    def __init__(self, root: str) -> None:
        """Read nothing yet."""
        self._root = root
        self.passed_over: Counter[str] = Counter()

    def walk(self) -> Iterator[Entry]:
        """Every regular file below the root, by path ascending; a folder that cannot be listed is an entry.

        What is passed over is counted meanwhile.

        Raises:
            OSError: the root cannot be listed.
        """
        self.passed_over.clear()
        below = [("", self._names(""))]
        while below:
            folder, names = below[-1]
            path = folder
            try:
                name = next(names, None)
                path += os.fsdecode(name or b"")
                if name is None:
                    below.pop()
                elif name.endswith(b"/"):
                    below.append((path, self._names(path)))
                else:
                    yield Entry(to_plan(path), os.lstat(os.path.join(self._root, path)).st_size)
            except OSError as error:
                if not path:
                    raise
                if path == folder:
                    below.pop()
                if isinstance(error, FileNotFoundError):
                    self.passed_over[VANISHED] += 1
                else:  # no rights, or too deep: what it is like is told when it is read
                    yield Entry(to_plan(path.removesuffix("/")), -1)

    def _names(self, folder: str) -> Iterator[bytes]:
        """Names in one folder, ascending, those of folders with a slash behind: so the paths ascend, too.

        They are kept as Arrow, for a folder may hold a million.
        """
        pieces, piece = [pa.array([], pa.binary())], []
        with os.scandir(os.fsencode(Path(self._root) / folder)) as entries:
            for entry in entries:
                if entry.is_symlink():
                    self.passed_over[LINKS] += 1
                elif entry.is_dir(follow_symlinks=False):
                    piece.append(entry.name + b"/")
                elif entry.is_file(follow_symlinks=False):
                    piece.append(entry.name)
                else:
                    self.passed_over[SPECIAL] += 1
                if len(piece) == _PIECE:
                    pieces.append(pa.array(piece, pa.binary()))
                    piece.clear()
        names = pa.concat_arrays([*pieces, pa.array(piece, pa.binary())])
        pieces.clear()
        ascending = names.take(pc.sort_indices(names))
        del names  # the loop may take hours
        for start in range(0, len(ascending), _PIECE):
            yield from ascending.slice(start, _PIECE).to_pylist()

    def open(self, path: str) -> tuple[BinaryIO, int, object]:
        """Open a file step by step, following no link below the root, and waiting for no pipe.

        Raises:
            OSError: it cannot be opened.
            SourceReadError: it is no regular file, or lies outside.
        """
        parts = parts_inside(from_plan(path))
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            for part in parts:
                below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            facts = os.fstat(descriptor)
            if stat.S_ISDIR(facts.st_mode):
                raise SourceReadError(
                    "a folder that could not be listed: it lies too deep, or its rights forbid it; "
                    "mend that, and take in what is in it by --incremental"
                )
            if not stat.S_ISREG(facts.st_mode):
                raise SourceReadError("no regular file: only those are read")
        except FileNotFoundError as error:
            os.close(descriptor)
            raise absent(path) from error
        except BaseException:
            os.close(descriptor)
            raise
        stamp = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        return os.fdopen(descriptor, "rb"), facts.st_size, stamp


class LoneArchive:
    """A ZIP or TAR archive as the source."""

    def __init__(self, path: str) -> None:
        """Read nothing yet."""
        self._path = path
        self._archives = Archives()

    def entries(self) -> Iterator[Entry]:
        """Every member; where the archive is damaged or above a cap, one entry for all that follows.

        Raises:
            UsageError: it is so from its first member on.
        """
        is_empty = True
        try:
            for entry in self._archives.members(self._path, lambda: open(self._path, "rb")):  # noqa: SIM115
                is_empty = False
                if entry.path != LABELS_NAME:
                    yield entry
        except (OSError, *BROKEN) as error:
            if is_empty:
                raise UsageError(f"{self._path} cannot be listed: {reason(error)}") from error
            yield Entry(REST, -1)

    def read(self, path: str, max_bytes: int, first: int | None) -> bytes:
        """The bytes of a member, or its ``first`` ones.

        Raises:
            OverLimitError, SourceReadError.
            OSError: the archive cannot be read.
        """
        parts_inside(path)
        with open(self._path, "rb") as stream:
            facts = os.fstat(stream.fileno())
            data = self._archives.read(
                self._path, lambda: stream, path,
                stamp=(facts.st_ino, facts.st_size, facts.st_mtime_ns), max_bytes=max_bytes, first=first,
            )  # fmt: skip
        require_no_archive(path, data)
        return data
