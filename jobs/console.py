"""What a verb says while it works, and at its end. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TextIO

import typer

PLAIN_INTERVAL_S = 2.0
RATE_WINDOW_S = 180.0
REDRAW_INTERVAL_S = 0.1
LUMP_SHARE, LUMP_S = 0.1, 2.0
"""Advances within this share of the time since the start, and no longer than this, are one."""
_KEPT_POINTS = 3
_CLEAR_LINE = "\r\x1b[2K"


@contextmanager
def progress(label: str, unit: str = "instances") -> Iterator[Callable[[int, int], None]]:
    """Draw count, rate and time left on stderr while the block runs; yields ``report(done, total)``.

    On a terminal one line is redrawn; elsewhere a line is written at most each 2 s, and one at the end.
    Report once before the work starts: what is already done by then (a resumed run) counts for no rate.
    """
    line = _ProgressLine(label, unit, sys.stderr)
    try:
        yield line.report
    except BaseException:
        line.close("stopped")
        raise
    line.close("done")


@contextmanager
def planning() -> Iterator[Callable[[int], None]]:
    """A progress line while a source is listed, whose end nobody knows; yields ``report(listed)``."""
    with progress("plan") as report:
        yield lambda listed: report(listed, 0)


def finish(verb: str, summary: Mapping[str, object], *, as_json: bool, exit_code: int = 0) -> NoReturn:
    """Print ``summary`` on stdout and end the verb with ``exit_code``.

    With ``as_json`` the last line is one JSON object: the verb, the exit code and the summary's fields.

    Raises:
        typer.Exit: always.
    """
    width = max((len(key) for key in summary), default=0)
    for key, value in summary.items():
        print(f"{key:<{width}}  {_text(value)}")
    if as_json:
        print(json.dumps(_jsonable({"verb": verb, "exit_code": exit_code, **summary}), allow_nan=False))
    sys.stdout.flush()
    raise typer.Exit(exit_code)


@dataclass(frozen=True, slots=True)
class _Point:
    time_s: float
    done: int


@dataclass(slots=True)
class _ProgressLine:
    """One progress line; ``clock`` gives seconds."""

    label: str
    unit: str
    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    total: int = 0
    points: list[_Point] = field(default_factory=list)
    """The first report, then those that came further; of the old ones only what the rate needs."""
    first: _Point | None = None
    drawn_s: float = -math.inf

    def report(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total``, and draw if the last drawing is old enough."""
        now = self.clock()
        self.total = total
        if not self.points or done != self.points[-1].done:
            self._take(_Point(now, done))
        interval = REDRAW_INTERVAL_S if self.stream.isatty() else PLAIN_INTERVAL_S
        if now - self.drawn_s >= interval:
            self.drawn_s = now
            self._write(self._status(now))

    def close(self, outcome: str) -> None:
        """Write the last line: how far it came, in what time, at what rate over all."""
        if not self.points:
            return
        first, last = self.first or self.points[0], self.points[-1]
        seconds = self.clock() - first.time_s
        text = f"{self.label}: {outcome}, {self._count()} in {_duration(seconds)}"
        if seconds > 0 and last.done > first.done:
            text += f", {_rate((last.done - first.done) / seconds)}"
        self._write(text, last=True)

    def _status(self, now_s: float) -> str:
        rate = self._rate_per_s()
        text = f"{self.label}: {self._count()}"
        if rate is None:
            return text
        last = self.points[-1]
        if not self.total:
            return f"{text}, {_rate(rate)}"
        left_s = (self.total - last.done) / rate - (now_s - last.time_s)
        return f"{text}, {_rate(rate)}, {_duration(max(left_s, 0))} left"

    def _count(self) -> str:
        done = self.points[-1].done
        if done and not self.total:
            return f"{done} {self.unit}"
        share = f" ({done / self.total:.0%})" if self.total else ""
        return f"{done}/{self.total} {self.unit}{share}"

    def _take(self, point: _Point) -> None:
        """Add a point. Workers that began together end together: what follows closely joins the last one."""
        if self.first is None:
            self.first = point
        since_s = point.time_s - self.first.time_s
        is_same_lump = len(self.points) > 1 and point.time_s - self.points[-1].time_s < min(
            LUMP_SHARE * since_s, LUMP_S
        )
        self.points = [*(self.points[:-1] if is_same_lump else self.points), point]
        while len(self.points) > _KEPT_POINTS and self.points[2].time_s < point.time_s - RATE_WINDOW_S:
            del self.points[1]

    def _rate_per_s(self) -> float | None:
        """Of the last minutes; without the time before the first advance: workers start in it."""
        last = self.points[-1]
        for base in (*self.points[1:-1], self.points[0]):
            if last.done > base.done and last.time_s > base.time_s:
                return (last.done - base.done) / (last.time_s - base.time_s)
        return None

    def _write(self, text: str, *, last: bool = False) -> None:
        if self.stream.isatty():
            self.stream.write(f"{_CLEAR_LINE}{text}" + ("\n" if last else ""))
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()


def _rate(per_s: float) -> str:
    return f"{float(f'{per_s:.3g}'):g}/s"


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    if hours:
        return f"{hours} h {rest_min:02d} min"
    return f"{minutes} min {rest_s:02d} s" if minutes else f"{rest_s} s"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _jsonable(value: object) -> object:
    """Plain JSON values: a number that is not finite becomes null, a path its text."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return str(value)
