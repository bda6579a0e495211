"""The audit log of an output folder: one JSON object a line, each holding the digest of the one before.

    {"n": 2, "at": "...", "token": 1, "event": "shard", "shard": 0, ..., "previous": "...", "sha256": "..."}

``sha256`` is the digest of all else in the line. A line that is changed, left out, put in or moved breaks the
chain; the last one is stated in the manifest, and shown to the user, who may keep it elsewhere: whoever
rewrites the whole folder cannot make that digest again. There is no patient data in any line.

The log is copied into the staging folder of a lease and takes its old place by one rename; then it is written
through the descriptor that the holder keeps. One who lost the folder writes to a file that has no name left.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from engine.errors import LedgerError, TableError
from engine.store.files import PRIVATE, now, sha256_of_facts, sync
from engine.store.lease import Lease, durable

AUDIT_NAME = "audit.jsonl"
SHARD_EVENTS = frozenset({"shard", "found"})
"""A shard that this run committed, and one that stood without a line: its run was killed in between."""

_FIRST = "0" * 64


class Log:
    """The log of a folder that is held; opened, and its chain checked, at the first note."""

    def __init__(self, lease: Lease) -> None:
        """Touch nothing yet."""
        self._lease = lease
        self._stream: TextIO | None = None
        self._count, self._head = 0, _FIRST
        self._shards: set[int] = set()

    def note(self, event: str, **facts: Any) -> str:
        """Add a line, durably; returns its digest.

        Raises:
            LedgerError: the chain of the log is broken.
            LeaseLostError: another run took the folder over before the log was open.
        """
        stream = self._opened()
        line = {
            "n": self._count + 1, "at": now(), "token": self._lease.token, "event": event, **facts,
            "previous": self._head,
        }  # fmt: skip
        line["sha256"] = sha256_of_facts(line)
        stream.write(json.dumps(line) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
        self._count, self._head = line["n"], line["sha256"]
        if event in SHARD_EVENTS:
            self._shards.add(line["shard"])
        return str(line["sha256"])

    def knows(self, shard: int) -> bool:
        """Whether a line tells of this shard."""
        self._opened()
        return shard in self._shards

    def close(self) -> None:
        """Write no more."""
        if self._stream:
            self._stream.close()

    def _opened(self) -> TextIO:
        if self._stream is None:
            path, aside = self._lease.folder / AUDIT_NAME, self._lease.staging / AUDIT_NAME
            lines = list(read(self._lease.folder, may_be_torn=True))
            self._shards = {line["shard"] for line in lines if line["event"] in SHARD_EVENTS}
            if lines:
                self._count, self._head = lines[-1]["n"], lines[-1]["sha256"]
            with durable(self._lease.staging):
                aside.touch(PRIVATE)
                self._stream = aside.open("w", encoding="utf-8")
                self._stream.writelines(json.dumps(line) + "\n" for line in lines)
                self._stream.flush()
                os.fsync(self._stream.fileno())
                aside.rename(path)
                sync(path.parent)
        return self._stream


def who() -> dict[str, str]:
    """Who runs this process, and where: for the line of a start."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname()}


def read(folder: Path, *, may_be_torn: bool = False) -> Iterator[dict[str, Any]]:
    """The lines, in order, the chain checked; none where there is no log.

    ``may_be_torn`` leaves out a last line without an end: a kill came in between.

    Raises:
        LedgerError: the chain is broken; names the line.
        TableError: the log cannot be read.
    """
    path = folder / AUDIT_NAME
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read: was it damaged?") from error
    *whole, rest = text.split("\n")
    if rest and not may_be_torn:
        raise LedgerError(f"{path} ends in the middle of line {len(whole) + 1}: it was cut or changed")
    previous = _FIRST
    for number, text_line in enumerate(whole, start=1):
        line = _checked(text_line, number, previous)
        if line is None:
            raise LedgerError(
                f"line {number} of {path} is not what was written, or a line before it is gone: the log was "
                "changed; keep the folder as it is, and score into another --out"
            )
        previous = line["sha256"]
        yield line


def _checked(text: str, number: int, previous: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        stated = line.pop("sha256")
        is_sound = line["n"] == number and line["previous"] == previous and sha256_of_facts(line) == stated
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return {**line, "sha256": stated} if is_sound else None
