"""Where instances come from: list a source into a plan, and read one of its members.

A folder tree for now. Any file name may be an instance; the label table at the root is not one. Links and
devices are passed over, so a read never leaves the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa

from engine import schema
from engine.errors import SourceReadError, UsageError

LABELS_NAME = "labels.csv"


def plan(source: str, shard_size: int) -> pa.Table:
    """The plan (``schema.PLAN``) of a source: every regular file, sorted by path, cut in shards.

    Raises:
        UsageError: ``source`` is no readable folder, or holds no file.
    """
    root = Path(source)
    if not root.is_dir():
        raise UsageError(f"{source} is no folder: give the folder that holds the DICOM files")
    members = sorted(_walk(root, ""))
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


def read(source: str, path: str) -> bytes:
    """The bytes of member ``path``.

    Raises:
        SourceReadError: the member cannot be read, or would lie outside the source.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise SourceReadError("the path leaves the source")
    try:
        descriptor = os.open(Path(source) / pure, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read()
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise SourceReadError(f"the file cannot be read ({reason}): check its rights and the disk") from error


def _walk(root: Path, below: str) -> Iterator[tuple[str, int]]:
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif entry.is_file(follow_symlinks=False) and path != LABELS_NAME:
                yield path, entry.stat(follow_symlinks=False).st_size
