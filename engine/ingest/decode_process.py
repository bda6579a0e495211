"""Reading and decoding in a child process: a file that crashes, hangs or balloons a decoder costs one row.

    Reader.read(paths) --- order: all paths of a shard --> engine.ingest.decode_worker
                       <-- one answer for each path, in order ---

The child answers in the order of the paths, so the first path without an answer is the one in hand when the
child ends. It is then given up with a typed error, and a fresh child goes on with the rest.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import sources
from engine.errors import (
    DecoderCrashError,
    DecoderMemoryError,
    DecoderTimeoutError,
    FilteredError,
    InstanceError,
    IsolationError,
)
from engine.ingest.instance import InputRule
from engine.ingest.sample import NO_SALT, Head, Outcome, Reading
from engine.sources import confine, wire

_CHILD = ("-P", "-m", "engine.ingest.decode_worker")
_SMALL_BYTES, _PAUSE_S = 1 << 15, 0.003  # answers below gather so long in the socket, which holds several
_THREADS = 8
_LEAST_BYTES = 1 << 30
_TIME_TO_END_S = 5.0  # of a child whose socket has closed: the kernel may still be writing off its memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """Bounds of the child process that reads and decodes."""

    deadline_s: float = 60.0
    """Of one file, reading it from its source included; by a clock that never goes back."""
    memory_bytes: int = 4 << 30
    """How far the child's private memory may grow beyond what it has when it has started; less where the
    machine has less for each of its cores, since so many read at once (but never below 1 GiB)."""
    start_s: float = 120.0
    """Until a child has to have started."""
    attempts: int = 3
    """Children in a row that may end without a file in hand."""
    command: tuple[str, ...] = ()
    """Starts the child, by default with this interpreter; two arguments are added to it."""


class Reader:
    """A child process, started when it is first needed and again after it ended. Not for two threads."""

    def __init__(self, isolation: Isolation) -> None:
        """Start nothing yet."""
        self._isolation = isolation
        self._child: _Child | None = None

    def read(self, reading: Reading, paths: Sequence[str]) -> list[list[Outcome]]:
        """Of each path, what each rule of the reading makes of it.

        Raises:
            IsolationError: the child cannot be started, or ends before it has a file in hand.
        """
        return self._answers(reading, paths, 0)

    def headers(self, reading: Reading, paths: Sequence[str]) -> list[Head]:
        """The header of each path, read by several threads of the child.

        Raises:
            IsolationError: see ``read``.
        """
        return [head for (head,) in self._answers(reading, paths, _THREADS)]

    def _answers(self, reading: Reading, paths: Sequence[str], threads: int) -> list[list[Any]]:
        """Outcomes of each path; with ``threads`` its header instead."""
        outcomes: list[list[Any]] = []
        deaths, is_second_chance = 0, False
        while len(outcomes) < len(paths):
            before = len(outcomes)
            order = {"reading": reading.facts(), "paths": list(paths[before:]), "threads": threads}
            ended = self._attempt(order, b"", outcomes)
            if ended is None:
                break
            if len(outcomes) > before:
                deaths, is_second_chance = 0, False
            if not ended.has_begun:
                deaths += 1
                self._check(deaths, ended)
            elif threads > 1:
                threads = 1  # one of several files in hand ended it: one after the other tells which
            elif ended.is_from_outside and not is_second_chance:
                is_second_chance = True
            else:
                outcomes.append([ended.verdict()] * _width(order))
                deaths, is_second_chance = 0, False
        return outcomes

    def images(
        self, source: str, rule: InputRule, paths: Sequence[str]
    ) -> list[NDArray[np.uint8] | InstanceError | FilteredError]:
        """Images [rows, columns] of files that were read before, or the typed error, of each path.

        The header that comes with an image is thrown away, so the site's salt is not needed.

        Raises:
            IsolationError: see ``read``.
        """
        outcomes = self.read(Reading(source=source, rules=(rule,), salt=NO_SALT), paths)
        return [outcome[1] if isinstance(outcome, tuple) else outcome for (outcome,) in outcomes]

    def read_bytes(self, reading: Reading, data: bytes) -> list[Outcome]:
        """What each rule makes of the bytes of one file; the reading's source is not asked.

        Raises:
            IsolationError: the child cannot be started, or ends before it has the file in hand.
        """
        outcomes: list[list[Outcome]] = []
        for deaths in range(1, self._isolation.attempts + 1):
            ended = self._attempt({"reading": reading.facts(), "paths": None, "threads": 0}, data, outcomes)
            if ended is None:
                break
            if ended.has_begun:
                return [ended.verdict()] * len(reading.rules)
            self._check(deaths, ended)
        return outcomes[0]

    def close(self) -> None:
        """End the child; the next read starts another."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _check(self, deaths: int, ended: _Ended) -> None:
        if deaths >= self._isolation.attempts:
            raise IsolationError(
                f"the reading process ended {deaths} times before it had a file in hand ({ended.how}): "
                "its own message is above; check the installation and the memory of this machine"
            )

    def _attempt(self, order: wire.Facts, data: bytes, outcomes: list[list[Outcome]]) -> _Ended | None:
        """Add the outcomes of one order; how the child ended where it did not come to the end of it."""
        count = 1 if order["paths"] is None else len(order["paths"])
        width = _width(order)
        has_begun = False
        try:
            child = self._living(
                sources.is_local(order["reading"]["source"]), order["reading"]["deidentified"]
            )
            wire.send(child.channel, order, data)
            child.answer()
            has_begun = True
            for _ in range(count):
                outcomes.append(child.outcomes(width))
        except TimeoutError:
            return self._ended(has_begun=has_begun, is_late=True)
        except (EOFError, ConnectionError):
            return self._ended(has_begun=has_begun, is_late=False)
        except BaseException:
            self.close()  # whoever reads next must not get the answers of this order
            raise
        return None

    def _living(self, *rights: object) -> _Child:
        """A child with these rights: whether it needs no network, and the folder that it may write to."""
        if self._child is not None and self._child.rights != rights:
            self.close()
        if self._child is None:
            self._child = _Child(self._isolation, rights)
            self._child.wait_until_ready()
        return self._child

    def _ended(self, *, has_begun: bool, is_late: bool) -> _Ended:
        child, self._child = self._child, None
        status, failure = child.end(is_late=is_late) if child else (None, "")
        return _Ended(has_begun, status, self._isolation.deadline_s if is_late else None, failure)


def reader(isolation: Isolation) -> Reader:
    """This thread's reader under these bounds; it lives, with its child, as long as the thread."""
    return _READERS.by_isolation.setdefault(isolation, Reader(isolation))


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a child ended: before or after it began its order, its status, the deadline it missed."""

    has_begun: bool
    status: int | None
    late_s: float | None
    failure: str

    @property
    def is_from_outside(self) -> bool:
        """Whether somebody else killed it: no decoder ends by SIGKILL, the kernel's memory killer does."""
        return self.late_s is None and not self.failure and self.status == -signal.SIGKILL

    @property
    def how(self) -> str:
        if self.late_s is not None:
            return f"no answer in {self.late_s:g} s"
        if self.failure:
            return self.failure
        if self.status is not None and self.status < 0:
            return f"signal {signal.Signals(-self.status).name}"
        return f"status {self.status}"

    def verdict(self) -> InstanceError:
        """The error of the file that was in hand."""
        if self.late_s is not None:
            return DecoderTimeoutError(f"reading and decoding took longer than {self.late_s:g} s: stopped")
        if self.is_from_outside:
            return DecoderMemoryError(
                "the reading process was killed twice at this file, most likely by the system for its memory"
            )
        return DecoderCrashError(f"the reading process ended ({self.how}): look at the file apart")


class _Child:
    """A started child and the socket to it."""

    def __init__(self, isolation: Isolation, rights: tuple[object, ...]) -> None:
        """Start it; the child gives up what goes beyond its ``rights`` at its first order.

        Raises:
            IsolationError: the system starts no process.
        """
        self.channel, theirs = socket.socketpair()
        with theirs:
            command = isolation.command or (sys.executable, *_CHILD)
            try:
                self._process = subprocess.Popen(
                    [*command, str(os.getpid()), str(min(isolation.memory_bytes, _share_bytes()))],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=confine.environment(is_local=bool(rights[0])),
                    start_new_session=True,
                )
            except OSError as error:
                self.channel.close()
                reason = error.strerror or "unknown reason"
                raise IsolationError(f"the reading process cannot be started ({reason})") from error
        self.rights = rights
        self._isolation = isolation
        self._frames = wire.Frames(self.channel)
        self._pause_s = 0.0
        self._failure = ""
        self._end = weakref.finalize(self, _end, self._process, self.channel, os.getpid())

    def wait_until_ready(self) -> None:
        """Return when it has imported what it needs; from then on the deadline of a file holds.

        Raises:
            EOFError, OSError: it is gone, or late.
        """
        self.channel.settimeout(self._isolation.start_s)
        self.answer()
        self.channel.settimeout(self._isolation.deadline_s)

    def answer(self) -> tuple[wire.Facts, bytearray]:
        """The next frame.

        Raises:
            EOFError, OSError: the child is gone, or late.
        """
        facts, raw = self._frames.receive(pause_s=self._pause_s)
        self._pause_s = _PAUSE_S if 0 < len(raw) < _SMALL_BYTES else 0.0
        if "failed" in facts:
            self._failure = str(facts["failed"])
            raise EOFError(self._failure)
        return facts, raw

    def outcomes(self, count: int) -> list[Any]:
        """The next answer to an order: so many outcomes.

        Raises:
            EOFError, OSError: the child is gone, or late.
        """
        try:
            facts, raw = self.answer()
            pixels, outcomes = np.frombuffer(raw, np.uint8), list[Any]()
            for one in facts["outcomes"]:
                if "code" in one:
                    outcomes.append(wire.error_from_facts(one))
                    continue
                if "frames" in one:
                    outcomes.append((dict(one["row"]), int(one["frames"])))
                    continue
                size = math.prod(one["shape"])
                outcomes.append((one["row"], pixels[:size].reshape(one["shape"])))
                pixels = pixels[size:]
            if len(outcomes) != count or len(pixels):
                raise ValueError("another number of outcomes or pixels")
            return outcomes
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            self._failure = "its answer makes no sense"
            raise EOFError(self._failure) from error

    def end(self, *, is_late: bool = True) -> tuple[int | None, str]:
        """End it, and give its status and what it said of it; one that is not late may end by itself."""
        if not is_late and not self._failure:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TIME_TO_END_S)
        self._end()
        return self._process.returncode, self._failure


def _width(order: wire.Facts) -> int:
    return 1 if order["threads"] else len(order["reading"]["rules"])


def _share_bytes() -> int:
    """Memory of this machine, or of our part of it, for each of the readers that it may have: one a core."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError):  # "max" where there is none
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return max(min(limits) * 3 // 4 // len(os.sched_getaffinity(0)), _LEAST_BYTES)


def _end(process: subprocess.Popen[bytes], channel: socket.socket, owner: int) -> None:
    channel.close()
    if os.getpid() == owner:  # a fork of this process has its own copy of the socket, but no child
        process.kill()
        process.wait()


class _Readers(threading.local):
    def __init__(self) -> None:
        self.by_isolation: dict[Isolation, Reader] = {}


_READERS = _Readers()
