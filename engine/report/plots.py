"""Plots as inline SVG: text stays text, nothing is fetched, and the same input gives the same bytes.

``draw`` draws the plots of ``engine.evaluation.answer.Plot``. Names in ``series`` by kind, N instances:

- scatter: ``x`` and ``y`` [N], with the line on which they are equal; ``group`` [N] words.
- difference: the same without that line; ``levels`` [L, 3] are lines with the ends of their bands, NaN for
  none, named by ``level_names`` [L].
- histogram: ``values`` [N]; ``group`` [N] words, stacked.
- matrix: ``counts`` [K, K], rows down; ``names`` [K].
- curve: each name a line, [2, n] of x and y; one of two points is a line to hold the others against.
- bars: ``names`` [n], each other name a bar beside each; ``reference`` [1] is a level to hold them against.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from engine.evaluation.answer import Plot
from engine.evaluation.metrics import Floats
from engine.store.files import sha256_of_bytes

INK, MUTED, RULE = "#1f2a33", "#5d6a75", "#dfe4e8"
COLOURS = ("#b5651d", "#2b6394", "#7b8791", "#3f7f5f", "#7a5195", "#a23b4a")
_FIRST = ("female", "male", "not stated")
"""Groups that have the same colour on every plot."""
_MARKERS = ("o", "^", "s")
_WIDE, _HALF = (9.6, 3.3), (5.0, 4.1)
_WIDE_KINDS = ("histogram", "bars")
_MARKED_EPOCHS = 30
_BINS, _FEW_VALUES = 45, 20
_VECTOR_POINTS = 3000
"""Above this many points the cloud becomes one embedded picture, or the page would grow without bound."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so sizes are the same on every machine
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}

Curve = tuple[Sequence[float], Sequence[float]]
Series = Mapping[str, NDArray[Any]]


def is_wide(plot: Plot) -> bool:
    """Whether a plot takes the whole width of the page."""
    return plot.kind in _WIDE_KINDS


def draw(plot: Plot, name: str) -> Markup:
    """The plot of an answer or of a report; ``name`` begins its ids."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE if is_wide(plot) else _HALF)
        _DRAWINGS[plot.kind](axes, plot.series)
        axes.set(xlabel=plot.x, ylabel=plot.y)
        if any(axes.get_legend_handles_labels()[1]):
            axes.legend(
                loc="upper left" if plot.kind != "bars" else "upper center", ncols=1 + (plot.kind == "bars")
            )
        return _svg(figure, name, plot.title)


def _scatter(axes: Axes, series: Series) -> None:
    both = np.concatenate([series["x"], series["y"]])
    margin = 0.03 * max(float(np.ptp(both)), 1.0)
    low, high = min(0.0, float(both.min())), float(both.max()) + margin
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, label="no error")
    _points(axes, series)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))


def _difference(axes: Axes, series: Series) -> None:
    _points(axes, series)
    for place, name in enumerate(series["level_names"]):
        level, low, high = (float(value) for value in series["levels"][place])
        if not np.isfinite(level):
            continue
        if np.isfinite(low):
            axes.axhspan(low, high, color=INK, alpha=0.09, linewidth=0)
        axes.axhline(level, color=INK, linewidth=1, linestyle="--" if place else "-")
        axes.annotate(
            f"{name} {level:+.1f}".replace("-", "\N{MINUS SIGN}"),
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 4),
            textcoords="offset points",
            ha="right",
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _histogram(axes: Axes, series: Series) -> None:
    values_N = np.asarray(series["values"], np.float64)
    group_N = series.get("group", np.full(len(values_N), ""))
    groups = _groups(group_N)
    axes.hist(
        [values_N[group_N == group] for group in groups],
        bins=_edges(values_N),
        stacked=True,
        color=[_colour(group, place) for place, group in enumerate(groups)],
        label=groups,
        edgecolor="white",
        linewidth=0.6,
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(visible=False, axis="x")


def _edges(values_N: Floats) -> list[float]:
    """Edges about each value where they are a few whole numbers; else about _BINS bars of a round width."""
    low, high = float(values_N.min()), float(values_N.max())
    if high - low < _FEW_VALUES and (values_N == np.rint(values_N)).all():
        return [float(edge) for edge in np.arange(low - 0.5, high + 1)]
    width = (high - low) / _BINS
    power = 10 ** np.floor(np.log10(width)) if width > 0 else 1.0
    width = float(next(step * power for step in (1, 2, 5, 10) if step * power >= width))
    first = np.floor(low / width)
    return [float(edge) for edge in width * np.arange(first, np.floor(high / width) + 2)]


def _matrix(axes: Axes, series: Series) -> None:
    counts_KK, names = series["counts"], [str(name) for name in series["names"]]
    axes.imshow(counts_KK, cmap="Blues")
    middle = counts_KK.max() / 2
    for row, column in np.ndindex(*counts_KK.shape):
        colour = "white" if counts_KK[row, column] > middle else INK
        axes.text(column, row, f"{counts_KK[row, column]:,}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)


def _curve(axes: Axes, series: Series) -> None:
    place = 1
    for name, (x_n, y_n) in series.items():
        if len(x_n) <= len(("from", "to")):
            axes.plot(x_n, y_n, color=MUTED, linewidth=1, label=name)
            continue
        axes.plot(x_n, y_n, color=COLOURS[place % len(COLOURS)], marker="o", markersize=3.5, label=name)
        place += 1


def _bars(axes: Axes, series: Series) -> None:
    shown = {name: values for name, values in series.items() if name not in ("names", "reference")}
    width = 0.8 / max(len(shown), 1)
    places_n = np.arange(len(series["names"]))
    for turn, (name, values_n) in enumerate(shown.items()):
        shift = (turn - (len(shown) - 1) / 2) * width
        axes.bar(places_n + shift, values_n, width=width, label=name, color=COLOURS[turn % len(COLOURS)])
    if "reference" in series:
        axes.axhline(float(series["reference"][0]), color=INK, linewidth=1, linestyle="--")
    axes.set_xticks(places_n, [str(name) for name in series["names"]])
    axes.margins(y=0.2)  # room for the legend
    axes.grid(visible=False, axis="x")


_DRAWINGS: dict[str, Callable[[Axes, Series], None]] = {
    "scatter": _scatter,
    "difference": _difference,
    "histogram": _histogram,
    "matrix": _matrix,
    "curve": _curve,
    "bars": _bars,
}


def curve_plot(curves: Mapping[str, Curve], name: str, *, unit: str, log: bool = False) -> Markup:
    """One line a curve over epochs; ``name`` must be unique on the page, ``unit`` names the vertical axis."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE)
        for place, (label, (epochs, values)) in enumerate(curves.items()):
            style = ("-", "--", ":")[place // len(COLOURS) % 3]
            marker, colour = (
                "o" if len(epochs) <= _MARKED_EPOCHS else None,
                COLOURS[(place + 1) % len(COLOURS)],
            )
            axes.plot(epochs, values, style, color=colour, marker=marker, markersize=3, label=label)
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set(xlabel="Epoch", ylabel=unit)
        handles, _ = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles, list(curves)[: len(handles)], loc="upper right")
        return _svg(figure, name, f"{unit} over epochs")


def forest_plot(labels: Sequence[str], difference_G: Floats, bounds_G2: Floats, unit: str) -> Markup:
    """One line a group: a difference as a point on its interval [G, 2], and zero as a rule.

    A group without an interval (NaN) shows its point alone.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure((_WIDE[0], 0.9 + 0.32 * len(labels)))
        places_G = np.arange(len(labels))
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.hlines(places_G, bounds_G2[:, 0], bounds_G2[:, 1], color=COLOURS[1], linewidth=2)
        axes.plot(difference_G, places_G, "o", color=COLOURS[1], markersize=5)
        axes.set_yticks(places_G, labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=f"A minus B, {unit}" if unit else "A minus B")
        return _svg(figure, "differences", "Difference of the errors by group with intervals")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _points(axes: Axes, series: Series) -> None:
    x_N, y_N = series["x"], series["y"]
    group_N = series.get("group", np.full(len(x_N), ""))
    for place, group in enumerate(_groups(group_N)):
        chosen = group_N == group
        axes.scatter(
            x_N[chosen],
            y_N[chosen],
            s=11,
            marker=_MARKERS[place % len(_MARKERS)],
            color=_colour(group, place),
            alpha=0.55,
            linewidths=0,
            label=group or None,
            rasterized=len(x_N) > _VECTOR_POINTS,
        )


def _groups(group_N: NDArray[Any]) -> list[str]:
    """Names in the order of _FIRST, then by the alphabet."""
    found = set(group_N.tolist())
    return [*(name for name in _FIRST if name in found), *sorted(found - set(_FIRST))]


def _colour(group: str, place: int) -> str:
    return COLOURS[_FIRST.index(group) if group in _FIRST else (place + 1) % len(COLOURS)]


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an SVG element for HTML: name spaces and style sheet go.

    Ids get ``name`` and a digest of the figure in front: several of one kind may stand on a page.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "osteoray"}):
        figure.savefig(
            stream, format="svg", dpi=144, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>\s*", r"<style[^>]*>.*?</style>\s*", r"<!--.*?-->\s*"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    name = f"{name}-{sha256_of_bytes(text.encode())[:8]}"
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    box = re.search(r'viewBox="([^"]*)"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    start = f'<svg role="img" aria-label="{Markup.escape(title)}" viewBox="{box[1]}">'
    return Markup(start + text[text.index(">") + 1 :])


def finite_curve(epochs: Iterable[Mapping[str, Any]], key: str) -> Curve:
    """Epoch numbers and values of one column of a learning curve, where it is a finite number."""
    points = [(row.get("epoch"), row.get(key)) for row in epochs]
    numbers = [
        (e, v)
        for e, v in points
        if isinstance(e, int | float) and isinstance(v, int | float) and np.isfinite(v)
    ]
    return [float(e) for e, _ in numbers], [float(v) for _, v in numbers]
