"""Member names: how a plan spells them, which ones leave their source, and how one is found again."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import numpy as np

from engine.errors import SourceReadError

LABELS_NAME = "labels.csv"
"""The label table at the root of an archive is no instance."""

DICOMWEB = ("dicomweb+http://", "dicomweb+https://")
"""How the address of a DICOMweb server begins."""

INSIDE = "!/"
"""Between the path of an archive and a member of it."""

# Old archives hold file names that are no UTF-8, and tables hold nothing else. Python reads such a byte as a
# lone surrogate; in a plan it is a character of the private use area, and goes back when the file is read.
# A name that has such a character itself (macOS and SMB servers make them) gets an escape before it.
_LONE_SURROGATES, _PRIVATE_USE = range(0xDC80, 0xDD00), range(0xF780, 0xF800)
_ESCAPE = "\uf77f"
_TO_PLAN = {
    **dict(zip(_LONE_SURROGATES, map(chr, _PRIVATE_USE), strict=True)),
    **{code: _ESCAPE + chr(code) for code in (ord(_ESCAPE), *_PRIVATE_USE)},
}
_FROM_PLAN = dict(zip(_PRIVATE_USE, map(chr, _LONE_SURROGATES), strict=True))
_ESCAPED = re.compile(f"{_ESCAPE}([{_ESCAPE}-\uf7ff])|([\uf780-\uf7ff])")
_SEPARATORS = re.compile(r"[/\\]")
DUPLICATE = "!duplicate"
"""Begins the end of the planned name of a member whose own name another one has."""
_DUPLICATE = re.compile(rf"{DUPLICATE}\d+$")


def to_plan(name: str) -> str:
    """The name as a table can hold it."""
    return name.translate(_TO_PLAN).encode("utf-8", "replace").decode("utf-8")


def from_plan(path: str) -> str:
    """The name as the file system has it."""
    return _ESCAPED.sub(lambda found: found[1] or _FROM_PLAN[ord(found[2])], path)


def parts_inside(path: str) -> tuple[str, ...]:
    """The parts of a path that stays inside its source.

    Raises:
        SourceReadError: it is absolute, has a ``..`` (either slash counts), a NUL, or is empty.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or path.startswith("\\") or ".." in _SEPARATORS.split(path) or "\0" in path:
        raise SourceReadError("the path leaves the source: such a member is not read")
    if not pure.parts:
        raise SourceReadError("the member has no name: it is not read")
    return pure.parts


def absent(path: str) -> SourceReadError:
    """The error of a path that no member has."""
    if _DUPLICATE.search(path):
        return SourceReadError("another member has the same name: only the first of them is read")
    return SourceReadError("the source has no such member (any more): plan it again")


class Places:
    """Name -> number, in 16 bytes a name: the names themselves stay in the archive.

    Names are known by 64 bits of a digest, so who looks one up checks the name that lies at the place.
    """

    def __init__(self, members: Iterable[tuple[str, int]]) -> None:
        """Take in all (name, number)."""
        keys, numbers = array("Q"), array("Q")
        for name, number in members:
            keys.append(_key(name))
            numbers.append(number)
        keys_N = np.frombuffer(keys, np.uint64) if keys else np.zeros(0, np.uint64)
        order = np.argsort(keys_N, kind="stable")
        self._keys_N = keys_N[order]
        self._numbers_N = (np.frombuffer(numbers, np.uint64) if numbers else keys_N)[order]

    def of(self, name: str) -> Iterator[int]:
        """Numbers that may be this name's, in the order they were given."""
        key = np.uint64(_key(name))
        first = int(np.searchsorted(self._keys_N, key, "left"))
        last = int(np.searchsorted(self._keys_N, key, "right"))
        yield from (int(number) for number in self._numbers_N[first:last])


def _key(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
