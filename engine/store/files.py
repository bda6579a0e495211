"""Provenance on disk: atomic JSON, digests, and the version of the code that wrote a folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import __version__
from engine.errors import TableError

MANIFEST_NAME = "manifest.json"
PRIVATE, SHARED = 0o600, 0o666
"""Modes of new files: for their owner only, since they may identify; and as the umask allows."""


@contextmanager
def replacing(path: Path, staging: Path | None = None, mode: int = SHARED) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, durably, when the block ends well.

    Where a lease is held, ``staging`` is its folder on the same file system: the temporary path lies there,
    so that nothing takes its place once the lease is lost (see ``engine.store.lease``). The file is never
    open to more than ``mode`` and the umask allow.

    Raises:
        FileNotFoundError: ``staging`` is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (staging or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or folder entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, facts: Mapping[str, Any], staging: Path | None = None, mode: int = SHARED) -> None:
    """Write ``facts`` atomically, keys as given, no NaN or infinity; the rest as in ``replacing``."""
    with replacing(path, staging, mode) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``.

    Raises:
        TableError: the file is absent or holds no JSON object.
    """
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror}): is this an osteoray folder?") from error
    except (RecursionError, ValueError) as error:
        raise TableError(f"{path} holds no JSON: it was damaged, restore it or run the job again") from error
    if not isinstance(facts, dict):
        raise TableError(f"{path} holds no JSON object: it was damaged, restore it or run the job again")
    return facts


def sha256_of_bytes(data: bytes | memoryview) -> str:
    """Hex digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_facts(facts: Any) -> str:
    """Hex digest of a JSON-able value, independent of the order of keys."""
    return sha256_of_bytes(json.dumps(facts, sort_keys=True, allow_nan=False).encode())


@functools.cache
def code_version() -> str:
    """Release plus a digest of the library's own sources, so that two working copies differ visibly."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def now() -> str:
    """The present time, UTC, to the second, ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
