"""What a verb says while it works, and at its end. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TextIO

import typer

PLAIN_INTERVAL_S = 2.0
REDRAW_INTERVAL_S = 0.1
MEMORY_S, MEMORY_ADVANCES = 120.0, 4
"""An advance counts half as much, or less, after so long; the last few always count."""
LEAST_SPAN = 0.5
"""Of the time up to the first advance: before that has passed again, advances say nothing of the rate."""
_CLEAR_LINE = "\r\x1b[2K"


@contextmanager
def progress(label: str, unit: str = "instances") -> Iterator[ProgressLine]:
    """Draw count, rate and time left on stderr while the block runs; yields what takes ``(done, total)``.

    On a terminal one line is redrawn; elsewhere a line is written at most each 2 s, and one at the end.
    Report once before the work starts: what is already done by then (a resumed run) counts for no rate.
    """
    line = ProgressLine(label, unit, sys.stderr)
    try:
        yield line
    except BaseException:
        line.close("stopped")
        raise
    line.close("done")


@contextmanager
def planning() -> Iterator[Callable[[int], None]]:
    """A progress line while a source is listed, whose end nobody knows; yields ``report(listed)``."""
    with progress("plan") as report:
        yield lambda listed: report(listed, 0)


PARTIAL = 3
"""Exit code: done, and some files were quarantined or some results not delivered."""


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


@dataclass(slots=True)
class Rate:
    """Instances per second from advances that come in lumps, as workers that began together end together.

    The slope of the least-squares line through the advances, older ones weighing less (West 1979, with
    forgetting): the time in which workers start is in no slope, and a lump is one place on the line however
    many advances it has. Until the advances span some time of their own, all is counted from the start: the
    rate is then at least this.
    """

    start_s: float
    start: int
    first_s: float = math.nan
    last_s: float = math.nan
    last: int = 0
    weight: float = 0.0
    mean_s: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    product: float = 0.0

    def advance(self, time_s: float, done: int) -> None:
        """Take note that ``done`` were done at ``time_s``."""
        if math.isnan(self.first_s):
            self.first_s = self.last_s = time_s
        by_time, by_count = math.exp2((self.last_s - time_s) / MEMORY_S), 1 - 1 / MEMORY_ADVANCES
        kept = self.weight * max(by_time, by_count)
        scale = kept / self.weight if self.weight else 0.0
        self.weight = kept + 1
        apart_s, apart = time_s - self.mean_s, done - self.mean
        self.mean_s += apart_s / self.weight
        self.mean += apart / self.weight
        self.square = scale * self.square + apart_s**2 * kept / self.weight
        self.product = scale * self.product + apart_s * apart * kept / self.weight
        self.last_s, self.last = time_s, done

    @property
    def is_settled(self) -> bool:
        """Whether the advances alone give the rate, without the time before the first one."""
        least_s = LEAST_SPAN * (self.first_s - self.start_s)
        return self.last_s - self.first_s >= least_s and self.product > 0

    def per_s(self) -> float | None:
        """The rate; None where nothing has advanced yet."""
        if math.isnan(self.first_s) or self.last_s <= self.start_s:
            return None
        if self.is_settled:
            return self.product / self.square
        return (self.last - self.start) / (self.last_s - self.start_s)

    def left_s(self, now_s: float, total: int, rate: float | None) -> float | None:
        """Seconds until all are done at this rate; None where there is none."""
        return max((total - self.last) / rate - (now_s - self.last_s), 0.0) if rate else None


@dataclass(slots=True)
class ProgressLine:
    """One progress line; ``clock`` gives seconds."""

    label: str
    unit: str
    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    total: int = 0
    rate: Rate | None = None
    done: int = 0
    drawn_s: float = -math.inf
    expected_s: float | None = None
    """By the clock, when all will be done."""

    def expect(self, left_s: float) -> None:
        """Say that so many seconds are left: who does the work knows more of it than its advances tell."""
        self.expected_s = self.clock() + left_s

    def __call__(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total``, and draw if the last drawing is old enough."""
        now = self.clock()
        self.total = total
        if self.rate is None:
            self.rate = Rate(now, done)
        elif done != self.done:
            self.rate.advance(now, done)
        self.done = done
        interval = REDRAW_INTERVAL_S if self.stream.isatty() else PLAIN_INTERVAL_S
        if now - self.drawn_s >= interval:
            self.drawn_s = now
            self._write(self._status(now))

    def close(self, outcome: str) -> None:
        """Write the last line: how far it came, in what time, at what rate over all."""
        if self.rate is None:
            return
        seconds = self.clock() - self.rate.start_s
        text = f"{self.label}: {outcome}, {self._count()} in {_duration(seconds)}"
        if seconds > 0 and self.done > self.rate.start:
            text += f", {_rate((self.done - self.rate.start) / seconds)}"
        self._write(text, last=True)

    def _status(self, now_s: float) -> str:
        text = f"{self.label}: {self._count()}"
        if self.rate is None:
            return text
        rate = self.rate.per_s()
        bound = "" if self.rate.is_settled else "at most "
        left_s = self.rate.left_s(now_s, self.total, rate)
        if self.expected_s is not None:
            bound, left_s = "", max(self.expected_s - now_s, 0.0)
        text += f", {_rate(rate)}" if rate is not None else ""
        return text if not self.total or left_s is None else f"{text}, {bound}{_duration(left_s)} left"

    def _count(self) -> str:
        if self.done and not self.total:
            return f"{self.done} {self.unit}"
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        return f"{self.done}/{self.total} {self.unit}{share}"

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
