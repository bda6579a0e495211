"""Training runs beside each other, and their learning curves."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from engine.report import plots, tables
from engine.report.facts import backbone, distillation, recorded_figures, role
from engine.report.folders import RunFolder


def comparison_of(runs: list[RunFolder]) -> dict[str, Any] | None:
    """Runs beside each other, each pair on the instances of both; None for no run."""
    if not runs:
        return None
    return {
        "models": [model_row(run) for run in runs],
        "pairs": tables.paired_rows(runs),
        "unit": next((run.task.answer.error_unit for run in runs if run.task), ""),
        "level": tables.LEVEL,
        "curves": validation_plot(runs, "compared"),
    }


def model_row(run: RunFolder) -> dict[str, Any]:
    """The figures of one run on its own held-out instances, as recorded, else of its table."""
    facts = run.facts
    figures = recorded_figures(facts)
    if figures is None and run.task and run.held and len(run.held.uids_N):
        figures = run.task.answer.figures(run.held, facts.get("calibration") or {})
    return {
        "name": run.name,
        "role": role(facts),
        "backbone": backbone(facts),
        "parameters": facts.get("parameters"),
        "distillation": distillation(facts),
        "instances": len(run.held.uids_N) if run.held else 0,
        "headline": figures.headline if figures else None,
        "images_per_second": (facts.get("speed") or {}).get("images_per_second_eager"),
    }


def validation_plot(runs: list[RunFolder], name: str) -> Markup | None:
    """The curve of each run whose name begins with ``val/``: one error, as its task says."""
    drawn = {}
    for run in runs:
        key = next((key for row in run.epochs for key in row if key.startswith("val/")), "")
        curve = plots.finite_curve(run.epochs, key)
        if curve[0]:
            drawn[run.name] = curve
    unit = next((run.task.answer.error_unit for run in runs if run.task), "")
    words = f"Validation error, {unit}" if unit else "Validation error"
    return plots.curve_plot(drawn, name, unit=words) if drawn else None


def loss_plot(run: RunFolder) -> Markup | None:
    """Training loss and each weighted term, on a logarithmic axis; values that are not positive fall out."""
    keys = dict.fromkeys(key for row in run.epochs for key in row)
    shown = [
        key for key in keys if key == "train/loss" or (key.startswith("term/") and key.endswith("/weighted"))
    ]
    drawn = {}
    for key in shown:
        epochs, values = plots.finite_curve(run.epochs, key)
        points = [(e, v) for e, v in zip(epochs, values, strict=True) if v > 0]
        if points:
            drawn[key.removesuffix("/weighted")] = ([e for e, _ in points], [v for _, v in points])
    return plots.curve_plot(drawn, "losses", unit="Loss (logarithmic)", log=True) if drawn else None
