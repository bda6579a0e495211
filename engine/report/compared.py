"""The page of `osteoray compare`: two runs on the same held-out instances, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.evaluation import metrics
from engine.evaluation.answer import FEW
from engine.evaluation.metrics import Interval
from engine.report import plots
from engine.report.page import render
from engine.report.tables import LEVEL


def comparison_page(facts: Mapping[str, Any], *, title: str) -> str:
    """HTML of the facts that ``jobs.compare`` writes as JSON."""
    rows: list[dict[str, Any]] = []
    for row in facts["differences"]:
        interval = _interval(row["interval"])
        verdict = _verdict(row, interval, is_group=bool(rows))
        rows.append({**row, "interval": interval, "is_small": row["instances"] < FEW, "verdict": verdict})
    plot = plots.forest_plot(
        [str(row["group"]).capitalize() for row in rows],
        np.array([row["difference"] for row in rows]),
        np.array([[row["interval"].low, row["interval"].high] for row in rows]),
        facts["unit"],
    )
    return render(
        "compare.html.j2",
        title=title,
        facts=facts,
        a=facts["a"],
        b=facts["b"],
        overall=rows[0],
        rows=rows,
        teacher=_taught(facts["teacher"]) if facts["teacher"] else None,
        plot=plot,
        few=FEW,
        level=LEVEL,
    )


def _verdict(row: Mapping[str, Any], interval: Interval, *, is_group: bool) -> str:
    """A group must also stand up to the other groups; all together were the question from the start."""
    if not interval.is_known:
        return "too few patients to say"
    is_chance = is_group and (row["p_holm"] is None or row["p_holm"] >= LEVEL)
    if not interval.excludes_zero or is_chance:
        return "no difference can be claimed"
    return "A is better" if row["difference"] < 0 else "B is better"


def _taught(teacher: Mapping[str, Any]) -> dict[str, Any]:
    fidelity = teacher["fidelity"]
    if fidelity:
        nets = {
            one: {**fidelity[one], "mean_interval": _interval(fidelity[one]["mean_interval"])} for one in "ab"
        }
        fidelity = {**fidelity, **nets, "interval": _interval(fidelity["interval"])}
    return {**teacher, "gap_closed_interval": _interval(teacher["gap_closed_interval"]), "fidelity": fidelity}


def _interval(bounds: Sequence[float] | None) -> Interval:
    return Interval(low=bounds[0], high=bounds[1]) if bounds else metrics.NO_INTERVAL
