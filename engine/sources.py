"""Where instances come from: list a source into a plan, and read one of its members.

A folder tree for now. Any file name may be an instance; the label table at the root is not one. Links and
devices are passed over, so a read never leaves the root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from engine import schema
from engine.errors import OverLimitError, SourceReadError, UsageError

LABELS_NAME = "labels.csv"

# Old archives hold file names that are no UTF-8, and tables hold nothing else. Python reads such a byte as a
# lone surrogate; in a plan it is a character of the private use area, and goes back when the file is read.
_LONE_SURROGATES, _PRIVATE_USE = range(0xDC80, 0xDD00), range(0xF780, 0xF800)
_TO_PLAN = dict(zip(_LONE_SURROGATES, _PRIVATE_USE, strict=True))
_FROM_PLAN = dict(zip(_PRIVATE_USE, _LONE_SURROGATES, strict=True))


def plan(source: str, shard_size: int) -> pa.Table:
    """The plan (``schema.PLAN``) of a source: every regular file, sorted by path, cut in shards.

    Raises:
        UsageError: ``source`` is no readable folder, or holds no file.
    """
    root = Path(source)
    if not root.is_dir():
        raise UsageError(f"{source} is no folder: give the folder that holds the DICOM files")
    try:
        members = sorted((path.translate(_TO_PLAN), size) for path, size in _walk(root))
    except OSError as error:
        place, reason = error.filename or source, error.strerror or "unknown reason"
        raise UsageError(f"{place} cannot be listed ({reason}): check its rights and the disk") from error
    if not members:
        raise UsageError(f"{source} holds no files: nothing to do")
    count = len(members)
    return pa.table(
        {
            "instance_index": pa.array(range(count), pa.int64()),
            "path": [path for path, _ in members],
            "shard": pa.array([index // shard_size for index in range(count)], pa.int32()),
            "size_bytes": pa.array([size for _, size in members], pa.int64()),
        },
        schema=schema.PLAN,
    )


def read(source: str, path: str, *, max_bytes: int | None = None) -> bytes:
    """The bytes of member ``path``, a path as the plan has it.

    Raises:
        OverLimitError: the member has more than ``max_bytes``; nothing of it was read.
        SourceReadError: the member cannot be read, is no regular file, or would lie outside the source.
    """
    pure = PurePosixPath(path.translate(_FROM_PLAN))
    if pure.is_absolute() or ".." in pure.parts:
        raise SourceReadError("the path leaves the source")
    try:
        with os.fdopen(_open(source, pure.parts), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise OverLimitError(f"the file has {size} bytes, the cap is {max_bytes}")
            return stream.read()
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SourceReadError(f"the file cannot be read ({reason}): check its rights and the disk") from error


def _open(source: str, parts: tuple[str, ...]) -> int:
    """Open a member step by step, following no link below the root, and waiting for no pipe."""
    descriptor = os.open(source, os.O_RDONLY)
    for part in parts:
        try:
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceReadError("no regular file: only those are read")
    return descriptor


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Path below ``root`` and size of every regular file; a folder that cannot be listed is an error."""
    folders = [""]
    while folders:
        below = folders.pop()
        with os.scandir(root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_file(follow_symlinks=False) and path != LABELS_NAME:
                    yield path, entry.stat(follow_symlinks=False).st_size
