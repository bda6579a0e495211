"""A source listed in a process of its own, bounded in memory and time, without rights that listing needs not.

    list_apart(source) --- order: the source --> engine.sources.list_worker
                       <-- members, some thousands at a time; each archive before it is opened ---

An archive at which the process ends becomes one row, and a fresh process lists the source once more.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.errors import IsolationError, StorageError, UsageError
from engine.sources import confine, wire
from engine.sources.listing import Entry, OnProgress, listed
from engine.store import passed_over

_WORKER = ("-P", "-m", "engine.sources.list_worker")
_ERRORS: dict[str, type[UsageError | StorageError]] = {kind.code: kind for kind in (UsageError, StorageError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of a process that lists."""

    memory_bytes: int = 4 << 30
    silence_s: float = 900.0
    """Without a member or another sign of life: a level of an object store may hold millions."""
    broken: int = 20
    """Archives at which it may end."""
    is_local: bool = True
    """Whether the source lies on a disk here: such a process gets no keys of servers."""


class _EndedError(Exception):
    """The process ended, or was late, with an archive in hand, or with none."""

    def __init__(self, archive: str, how: str) -> None:
        super().__init__(how)
        self.archive = archive


def list_apart(source: str, on_progress: OnProgress | None = None, bounds: Bounds | None = None) -> pa.Table:
    """What ``listing.listed`` gives of the members of ``source``.

    Raises:
        UsageError, StorageError: the source cannot be listed.
        IsolationError: the process cannot be started, or ends at nothing in particular.
    """
    bounds = bounds or Bounds()
    broken: list[str] = []
    while True:
        try:
            passed: dict[str, int] = {}
            table = listed(_entries(source, broken, bounds, passed), on_progress)
            return passed_over.noted(table, passed)
        except _EndedError as ended:
            if not ended.archive or ended.archive in broken or len(broken) == bounds.broken:
                raise IsolationError(
                    f"the process that lists {source} ended ({ended}): give parts of the source, "
                    "and look at the memory of this machine"
                ) from ended
            broken.append(ended.archive)


def _entries(
    source: str, broken: list[str], bounds: Bounds, passed: dict[str, int]
) -> Iterator[Entry | None]:
    channel, theirs = socket.socketpair()
    with channel, theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, *_WORKER, str(os.getpid()), str(bounds.memory_bytes)],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=confine.environment(is_local=bounds.is_local), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise IsolationError(f"the process that lists cannot be started ({reason})") from error
        theirs.close()
        try:
            channel.settimeout(bounds.silence_s)
            wire.send(channel, {"source": source, "broken": broken})
            yield from _received(channel, bounds, process, passed)
        finally:
            process.kill()
            process.wait()


def _received(
    channel: socket.socket, bounds: Bounds, process: subprocess.Popen[bytes], passed: dict[str, int]
) -> Iterator[Entry | None]:
    """The members that the process sends, to its end; what it passed over goes into ``passed``."""
    frames, archive = wire.Frames(channel), ""
    try:
        while True:
            facts, _ = frames.receive()
            if "error" in facts:
                raise _ERRORS[facts["error"]](str(facts["message"]))
            archive = str(facts.get("archive", archive))
            yield from _members(facts)
            yield None
            if facts.get("is_done"):
                passed.update({str(kind): int(count) for kind, count in facts["passed_over"].items()})
                return
    except TimeoutError as error:
        raise _EndedError(archive, f"silent for {bounds.silence_s:g} s") from error
    except (EOFError, OSError) as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        raise _EndedError(archive, f"status {process.returncode}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _EndedError(archive, "its answer makes no sense") from error


def _members(facts: wire.Facts) -> Iterator[Entry]:
    columns: list[list[Any]] = facts.get("members", [[], [], []])
    for path, size, series in zip(*columns, strict=True):
        if not (isinstance(path, str) and isinstance(size, int) and isinstance(series, str)):
            raise TypeError("no member")
        yield Entry(path, size, series)
