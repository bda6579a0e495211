"""A DICOMDIR as the source: the files it lists, below the folder that it lies in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.dicom.dicomdir import references
from engine.errors import InstanceError, OverLimitError, UsageError
from engine.sources.listing import Entry
from engine.sources.names import to_plan
from engine.sources.tree import Folder

_MAX_BYTES = 256 << 20


class DicomDir:
    """The files that a DICOMDIR lists; their series are known, so a plan keeps them whole."""

    def __init__(self, path: str) -> None:
        """Read nothing yet."""
        self._path = Path(path)
        self._folder = Folder(str(self._path.parent))

    def entries(self) -> Iterator[Entry]:
        """Every listed file; one that is not there, or would lie elsewhere, is refused when it is read.

        Raises:
            UsageError: the DICOMDIR cannot be read, or is none.
        """
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                raise OverLimitError(f"it is larger than {_MAX_BYTES} bytes")
            for reference in references(self._path.read_bytes()):
                name = self._as_it_lies("/".join(reference.components))
                yield Entry(to_plan(name), self._size(name), reference.series)
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read ({error.strerror}): check its rights") from error
        except InstanceError as error:
            raise UsageError(f"{self._path} cannot be used: {error}") from error

    def read(self, path: str, max_bytes: int, first: int | None) -> bytes:
        """The bytes of a listed file, or its ``first`` ones.

        Raises:
            OverLimitError, SourceReadError, OSError.
        """
        stream, size, _ = self._folder.open(path)
        with stream:
            if size > max_bytes:
                raise OverLimitError(f"the file has {size} bytes, the cap is {max_bytes}")
            return stream.read() if first is None else stream.read(first)

    def _as_it_lies(self, name: str) -> str:
        """Media that are mounted or copied often have the names in lower case."""
        lower = name.lower()
        return lower if self._size(name) < 0 and self._size(lower) >= 0 else name

    def _size(self, name: str) -> int:
        parts = name.split("/")
        if ".." in parts or "" in parts or "\0" in name:
            return -1
        try:
            return os.stat(self._path.parent / name, follow_symlinks=False).st_size
        except OSError:
            return -1
