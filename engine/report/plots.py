"""Plots as inline SVG: text stays text, nothing is fetched, and the same input gives the same bytes.

Ages are in months as everywhere; axes of age are drawn in years, axes of error in months.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, NullFormatter, StrMethodFormatter

from engine.evaluation import metrics
from engine.evaluation.agreement import BlandAltman
from engine.evaluation.metrics import Interval
from engine.report import tables
from engine.report.folders import SEXES
from engine.store.files import sha256_of_bytes

INK, MUTED, RULE = "#1f2a33", "#5d6a75", "#dfe4e8"
COLOURS = ("#b5651d", "#2b6394", "#7b8791", "#3f7f5f", "#7a5195", "#a23b4a")
SEX_COLOURS = dict(zip(SEXES, COLOURS, strict=False))
_MARKERS = dict(zip(SEXES, ("o", "^", "s"), strict=True))
_WIDE, _HALF = (9.6, 3.3), (5.0, 4.1)
_MARKED_EPOCHS = 30
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


def truth_plot(frame: pl.DataFrame) -> Markup:
    """True against predicted bone age, one point an instance, with the line of no error."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HALF)
        highest = float(frame.select("truth", "predicted").to_numpy().max()) / 12 + 0.5
        axes.plot([0, highest], [0, highest], color=MUTED, linewidth=1, label="no error")
        _points(axes, frame, frame["truth"].to_numpy() / 12, frame["predicted"].to_numpy() / 12)
        axes.set(xlim=(0, highest), ylim=(0, highest), aspect="equal")
        _years(axes)
        axes.set(xlabel="True bone age, years", ylabel="Predicted bone age, years")
        axes.legend(loc="upper left")
        return _svg(figure, "truth", "Scatter plot of true against predicted bone age")


def bland_altman_plot(frame: pl.DataFrame, agreement: BlandAltman) -> Markup:
    """Error against the mean of truth and prediction, with bias, limits and the bands of their intervals."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HALF)
        middle_N = (frame["truth"].to_numpy() + frame["predicted"].to_numpy()) / 24
        _points(axes, frame, middle_N, tables.errors(frame))
        _level(axes, agreement.bias, agreement.bias_interval, "bias")
        _level(axes, agreement.upper_limit, agreement.upper_interval, "upper limit", dashed=True)
        _level(axes, agreement.lower_limit, agreement.lower_interval, "lower limit", dashed=True)
        axes.set(xlabel="Mean of truth and prediction, years", ylabel="Predicted minus true, months")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return _svg(figure, "agreement", "Bland-Altman plot of the error against the mean age")


def age_plot(predictions: pl.DataFrame, mark: str = "") -> Markup:
    """Number of scored instances by predicted bone age, half a year a bar, stacked by sex.

    ``mark`` tells the ids of two plots on a page apart whose bars are the same.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE)
        years = predictions.filter(pl.col("predicted").is_finite()).with_columns(pl.col("predicted") / 12)
        shown = [sex for sex in SEXES if not years.filter(sex=sex).is_empty()]
        edges = np.arange(0, np.floor(years["predicted"].to_numpy().max(initial=1)) + 1.01, 0.5)
        axes.hist(
            [years.filter(sex=sex)["predicted"].to_numpy() for sex in shown],
            bins=edges.tolist(),
            stacked=True,
            color=[SEX_COLOURS[sex] for sex in shown],
            label=shown,
            edgecolor="white",
            linewidth=0.6,
        )
        _years(axes, both=False)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="Predicted bone age, years", ylabel="Images")
        axes.legend(loc="upper left")
        axes.set_xlim(left=0)
        return _svg(figure, f"ages{mark}", "Histogram of predicted bone ages by sex")


def coverage_plot(frame: pl.DataFrame) -> Markup:
    """Share of errors inside the model's own central interval, against the share that interval claims."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_HALF)
        claimed = np.linspace(0.05, 0.95, 19)
        errors_N, sd_N = tables.errors(frame), frame["sd"].to_numpy()
        multiples = [NormalDist().inv_cdf(0.5 + share / 2) for share in claimed]
        found = [metrics.share_within_sd(errors_N, sd_N, multiple) for multiple in multiples]
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, label="honest uncertainty")
        axes.plot(
            100 * claimed,
            100 * np.array(found),
            color=COLOURS[1],
            marker="o",
            markersize=3.5,
            label="this model",
        )
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set(xlabel="Share the model claims, %", ylabel="Share found, %")
        axes.legend(loc="upper left")
        return _svg(figure, "coverage", "Calibration of the uncertainty")


def curve_plot(curves: Mapping[str, Curve], name: str, *, unit: str, log: bool = False) -> Markup:
    """One line a curve over epochs; ``name`` must be unique on the page, ``unit`` names the vertical axis."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE)
        for place, (label, (epochs, values)) in enumerate(curves.items()):
            style = ("-", "--", ":")[place // len(COLOURS) % 3]
            marker = "o" if len(epochs) <= _MARKED_EPOCHS else None
            axes.plot(
                epochs,
                values,
                style,
                color=COLOURS[(place + 1) % len(COLOURS)],
                marker=marker,
                markersize=3,
                label=label,
            )
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


def difference_plot(
    labels: Sequence[str], difference_G: metrics.Floats, bounds_G2: metrics.Floats, unit: str
) -> Markup:
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


def drift_plot(shares: Mapping[str, metrics.Floats]) -> Markup:
    """Shares [10] of an archive in each tenth of a validation split, a group of bars for each quantity."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE)
        width = 0.8 / max(len(shares), 1)
        for turn, (name, shares_B) in enumerate(shares.items()):
            places_B = np.arange(1, len(shares_B) + 1) + (turn - (len(shares) - 1) / 2) * width
            axes.bar(places_B, 100 * shares_B, width=width, label=name, color=COLOURS[turn])
        axes.axhline(10, color=INK, linewidth=1, linestyle="--")
        axes.set_xticks(range(1, 11))
        axes.margins(y=0.2)  # room for the legend
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="Tenth of the validation split, from lowest to highest", ylabel="% of this archive")
        axes.legend(loc="upper center", ncols=2)
        return _svg(figure, "drift", "Share of the archive in each tenth of the validation split")


def change_plot(changes_N: metrics.Floats, limit: float) -> Markup:
    """Histogram of changes in months; those beyond ``limit`` are counted in the outermost bars."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDE)
        axes.hist(np.clip(changes_N, -limit, limit), bins=np.linspace(-limit, limit, 42).tolist(),
                  color=COLOURS[1], edgecolor="white", linewidth=0.6)  # fmt: skip
        axes.axvline(0, color=INK, linewidth=1, linestyle="--")
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="B minus A, months", ylabel="Images")
        return _svg(figure, "changes", "Histogram of the changes between two models")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _points(axes: Axes, frame: pl.DataFrame, x_N: metrics.Floats, y_N: metrics.Floats) -> None:
    for sex in SEXES:
        chosen = (frame["sex"] == sex).to_numpy()
        if chosen.any():
            axes.scatter(
                x_N[chosen],
                y_N[chosen],
                s=11,
                marker=_MARKERS[sex],
                color=SEX_COLOURS[sex],
                alpha=0.55,
                linewidths=0,
                label=sex,
                rasterized=len(frame) > _VECTOR_POINTS,
            )


def _level(axes: Axes, level: float, interval: Interval, name: str, *, dashed: bool = False) -> None:
    if not np.isfinite(level):
        return
    if np.isfinite(interval.low):
        axes.axhspan(interval.low, interval.high, color=INK, alpha=0.09, linewidth=0)
    axes.axhline(level, color=INK, linewidth=1, linestyle="--" if dashed else "-")
    text = f"{name} {level:+.1f}".replace("-", "\N{MINUS SIGN}")
    axes.annotate(
        text,
        (1, level),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 4),
        textcoords="offset points",
        ha="right",
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )


def _years(axes: Axes, *, both: bool = True) -> None:
    axes.xaxis.set_major_locator(MultipleLocator(2))
    if both:
        axes.yaxis.set_major_locator(MultipleLocator(2))


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
