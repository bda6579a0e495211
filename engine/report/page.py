"""The one door to the page: templates, and how numbers and times are written.

Everything that reaches a template is escaped, and loses control characters first; only the plots and the
style sheet, which we make ourselves, are passed as markup.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.evaluation.answer import Figure
from engine.evaluation.metrics import Interval

NOTHING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TEMPLATES = Path(__file__).parent
_HARMFUL = frozenset({"Cc", "Cf", "Cs"})
_LONGEST_TEXT = 400
_MINUTE_S, _HOUR_MIN = 60, 60


def render(template: str, **values: object) -> str:
    """The HTML of ``template``, a file beside this module.

    Raises:
        jinja2.UndefinedError: the template names a value that was not given.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        lstrip_blocks=True,
    )
    for function in (whole, number, signed, percent, interval, shown, span, duration, date, short, value):
        environment.filters[function.__name__] = function
    environment.globals["css"] = Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment


def printable(text: object) -> object:
    """Text without control, bidirectional-override and surrogate characters: they could disguise a name."""
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    return "".join(
        c if unicodedata.category(c) not in _HARMFUL or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def whole(figure: int) -> str:
    """12345 -> 12,345."""
    return f"{figure:,}"


def number(figure: float | None, digits: int = 1) -> str:
    """A figure with a real minus sign; a dash for None, NaN and infinity."""
    if figure is None or not math.isfinite(figure):
        return NOTHING
    text = f"{figure:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def signed(figure: float, digits: int = 1) -> str:
    """The same with a plus sign where it is above zero after rounding."""
    text = number(figure, digits)
    return text if text in {NOTHING, number(0, digits)} or text.startswith(_MINUS) else f"+{text}"


def percent(share: float, digits: int = 1) -> str:
    """A share 0..1 in per cent; all and nothing are said only where they are exact."""
    if not math.isfinite(share):
        return NOTHING
    edge = 10.0**-digits
    if 0 < share < edge / 200:
        return f"< {number(edge, digits)} %"
    if 1 - edge / 200 <= share < 1:
        return f"> {number(100 - edge, digits)} %"
    return f"{number(100 * share, digits)} %"


def interval(bounds: Interval, digits: int = 1, scale: float = 1) -> str:
    """``5.8 to 6.9``; empty where there is none, or where the resamples never differed and so say nothing."""
    if not bounds.is_known or bounds.low == bounds.high:
        return ""
    return f"{number(scale * bounds.low, digits)} to {number(scale * bounds.high, digits)}"


def shown(figure: Figure, digits: int | None = None) -> str:
    """The value of a figure, with its own decimals unless ``digits`` says how many."""
    return number(figure.value, figure.decimals if digits is None else digits)


def span(figure: Figure, digits: int | None = None) -> str:
    """Its interval; empty where there is none, or where the resamples never differed."""
    if figure.low is None or figure.high is None:
        return ""
    bounds = Interval(low=figure.low, high=figure.high)
    return interval(bounds, figure.decimals if digits is None else digits)


def duration(seconds: float | None) -> str:
    """Seconds in the two units that matter: 4000 -> 1 h 7 min."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE_S)
    if minutes < _HOUR_MIN:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, _HOUR_MIN)
    return f"{hours} h {minutes} min"


def date(stamp: str | None) -> str:
    """``2026-11-21T09:02:00+00:00`` -> ``21 November 2026, 09:02 UTC``; anything else as it stands."""
    try:
        moment = datetime.fromisoformat(stamp or "")
    except ValueError:
        return stamp or NOTHING
    zone = moment.tzname() or ""
    return f"{moment.day} {moment:%B %Y, %H:%M} {zone}".rstrip()


def short(text: str | None, length: int = 12) -> str:
    """The first characters of a digest."""
    return text[:length] if text else NOTHING


def value(fact: object) -> str:
    """A fact of a JSON file as one line of text."""
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, float):
        return f"{fact:.6g}"
    if isinstance(fact, int):
        return whole(fact)
    if fact is None or fact in ("", [], {}):
        return NOTHING
    text = ", ".join(value(item) for item in fact) if isinstance(fact, list | tuple) else str(fact)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}\N{HORIZONTAL ELLIPSIS}"
