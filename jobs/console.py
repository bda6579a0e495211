"""What a verb says while it works, and at its end. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from engine.ingest.eta import Rate

if TYPE_CHECKING:
    from engine.evaluation.answer import Figure

PLAIN_INTERVAL_S = 2.0


class Dropping(io.TextIOBase):
    """A text stream that drops what its disk or pipe does not take: no run ends since nobody hears it."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``, as long as it can be written to."""
        self._stream = stream
        self._is_mute = False

    def write(self, text: str) -> int:
        """Write, or drop."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush, or give up."""
        self._try(self._stream.flush)

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor below."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream below."""
        return self._stream.encoding

    def _try(self, act: Callable[..., object], *words: str) -> None:
        if self._is_mute:
            return
        try:
            act(*words)
        except (OSError, ValueError):  # full, broken, or closed
            self._is_mute = True


@contextmanager
def progress(label: str, unit: str = "instances") -> Iterator[ProgressLine]:
    """Draw count, rate and time left on stderr while the block runs; yields what takes ``(done, total)``.

    A terminal gets a bar; elsewhere a line is written at most each 2 s. Both get one line at the end.
    Report once before the work starts: what is already done by then (a resumed run) counts for no rate.
    """
    line = ProgressLine(label, unit, Console(stderr=True))
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
FOREIGN = 5
"""Exit code: done, and scores are withheld, since the archive is not like the training images."""


def headline_summary(headline: Figure) -> dict[str, object]:
    """The headline of held-out figures as entries of a summary."""
    low, high, digits = headline.low, headline.high, headline.decimals
    return {
        f"test_{headline.key}": None if headline.value is None else round(headline.value, digits),
        "interval_95": "none" if low is None or high is None else f"{low:.{digits}f}..{high:.{digits}f}",
    }


def finish(
    verb: str,
    summary: Mapping[str, object],
    *,
    as_json: bool,
    exit_code: int = 0,
    warnings: Sequence[str] = (),
) -> NoReturn:
    """Print ``summary`` on stdout, ``warnings`` before it, and end the verb with ``exit_code``.

    With ``as_json`` the last line is one JSON object: the verb, the exit code, the warnings and the summary's
    fields.

    Raises:
        typer.Exit: always.
    """
    for sentence in warnings:
        print(f"warning: {sentence}")
    width = max((len(key) for key in summary), default=0)
    for key, value in summary.items():
        print(f"{key:<{width}}  {_text(value)}")
    if as_json:
        facts = {"verb": verb, "exit_code": exit_code, "warnings": warnings, **summary}
        print(json.dumps(_jsonable(facts), allow_nan=False))
    sys.stdout.flush()
    raise typer.Exit(exit_code)


class ProgressLine:
    """One line of progress: a bar where ``console`` is a terminal, else plain lines some seconds apart."""

    def __init__(
        self, label: str, unit: str, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Draw nothing yet; ``clock`` gives seconds."""
        self._label, self._unit, self._console, self._clock = label, unit, console, clock
        self._rate: Rate | None = None
        self._done = self._total = 0
        self._drawn_s = -math.inf
        columns = (TextColumn("{task.description}"), BarColumn(), _Status(self))
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(label, total=None)

    def __call__(self, done: int, total: int) -> None:
        """Take note of ``done`` of ``total``, and draw if the last drawing is old enough."""
        now = self._clock()
        if self._rate is None:
            self._rate = Rate(now, done)
        elif done != self._done:
            self._rate.advance(now, done)
        self._done, self._total = done, total
        if self._console.is_terminal:
            self._bar.start()
            self._bar.update(self._task, completed=done, total=total or None)
        elif now - self._drawn_s >= PLAIN_INTERVAL_S:
            self._drawn_s = now
            self._write(f"{self._label}: {self.status()}")

    def close(self, outcome: str) -> None:
        """Write the last line: how far it came, in what time, at what rate over all."""
        if self._rate is None:
            return
        if self._console.is_terminal:
            self._bar.stop()
        seconds = self._clock() - self._rate.start_s
        text = f"{self._label}: {outcome}, {self._count()} in {_duration(seconds)}"
        if seconds > 0 and self._done > self._rate.start:
            text += f", {_rate((self._done - self._rate.start) / seconds)}"
        self._write(text)

    def status(self) -> str:
        """What is done, at what rate, and the time left."""
        text = self._count()
        if self._rate is None:
            return text
        rate = self._rate.per_s()
        bound = "" if self._rate.is_settled else "at most "
        left_s = self._rate.left_s(self._clock(), self._total, rate)
        text += f", {_rate(rate)}" if rate is not None else ""
        return text if not self._total or left_s is None else f"{text}, {bound}{_duration(left_s)} left"

    def _count(self) -> str:
        if self._done and not self._total:
            return f"{self._done} {self._unit}"
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        return f"{self._done}/{self._total} {self._unit}{share}"

    def _write(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Status(ProgressColumn):
    """Count, rate and time left of a line, drawn anew some times a second."""

    def __init__(self, line: ProgressLine) -> None:
        super().__init__()
        self._line = line

    def render(self, task: object) -> Text:
        return Text(self._line.status())


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
