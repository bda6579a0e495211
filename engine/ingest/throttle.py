"""When a run may read, how fast, and whether it has been asked to stop: what every reading task looks at.

All of it travels to tasks as plain values; the request to stop is a file, so that tasks on every node see it.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from engine.errors import UsageError

STOP_NAME = "stop"
_LOOK_S = 1.0
_DAY_S = 86_400
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of the day, by the clock on the wall: seconds from midnight; over midnight where they descend."""

    opens_s: int
    closes_s: int

    def is_open(self, at: datetime) -> bool:
        """Whether the local time ``at`` lies in it."""
        second = at.hour * 3600 + at.minute * 60 + at.second
        since = (second - self.opens_s) % _DAY_S
        return since < (self.closes_s - self.opens_s) % _DAY_S


def read_window(text: str) -> Window:
    """``22:00-06:00``, local time.

    Raises:
        UsageError: it is none, or has no length.
    """
    found = _CLOCK.fullmatch(text)
    if found:
        hours = [int(part) for part in found.groups()]
        window = Window(hours[0] * 3600 + hours[1] * 60, hours[2] * 3600 + hours[3] * 60)
        if window.opens_s != window.closes_s:
            return window
    raise UsageError(f"--window takes two different times of a day, as 22:00-06:00, not '{text}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What holds a task back; by default nothing does."""

    window: Window | None = None
    per_second: float | None = None
    """Instances that one reader may read in a second."""
    staging: Path | None = None
    """Of the lease; a file in it asks to stop, and so does its absence."""

    @property
    def is_stopped(self) -> bool:
        """Whether a task that begins now should leave its shard alone."""
        return self.staging is not None and ((self.staging / STOP_NAME).exists() or not self.staging.exists())

    def may_start(
        self, clock: Callable[[], datetime] = datetime.now, sleep: Callable[[float], None] = time.sleep
    ) -> bool:
        """Wait until the window is open; False once asked to stop."""
        while not self.is_stopped:
            if self.window is None or self.window.is_open(clock()):
                return True
            sleep(_LOOK_S)
        return False

    def turns(self, count: int) -> list[int]:
        """How many of ``count`` instances to read at once: a second's worth each time."""
        size = max(int(self.per_second), 1) if self.per_second else max(count, 1)
        return [min(size, count - first) for first in range(0, count, size)]


class Meter:
    """Holds one or several threads to a rate."""

    def __init__(self, per_second: float | None) -> None:
        """Start the clock with the first instance."""
        self._per_second = per_second
        self._lock = threading.Lock()
        self._next_s = 0.0

    def take(self, count: int = 1) -> None:
        """Return when ``count`` more may be read."""
        if not self._per_second:
            return
        with self._lock:
            now_s = time.monotonic()
            starts_s = max(self._next_s, now_s)
            self._next_s = starts_s + count / self._per_second
        time.sleep(max(starts_s - now_s, 0.0))


@functools.cache
def meter(per_second: float | None) -> Meter:
    """This process's meter of a rate: it goes on from one shard to the next."""
    return Meter(per_second)


def ask_to_stop(staging: Path) -> None:
    """Let no task of the run begin another shard; nothing where the lease is lost."""
    if staging.exists():
        (staging / STOP_NAME).touch()
