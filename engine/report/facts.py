"""The facts of a model or run, as its JSON tells them, brought into the order and words of a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.evaluation.answer import Figures, figures_from_facts
from engine.report.page import value

_MAIN = {
    "Role": "recipe.role",
    "Backbone": "recipe.network.backbone",
    "Parameters": "parameters",
    "Engine": "engine",
    "Input, pixels (rows, columns)": "task.rule.view.size_HW",
    "Images, held-out ones included": "data.counts.samples",
    "Exported": "written",
    "Exported by osteoray": "code_version",
    "Digest": "model_sha256",
}
"""What a reader asks first -> dotted name in a bundle's facts."""


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested JSON facts as (dotted name, value), in the file's order."""
    for name, fact in facts.items():
        if isinstance(fact, Mapping) and fact:
            yield from flat_facts(fact, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", fact


def main_facts(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a reader asks first of a bundle, in plain words; what it does not say is left out."""
    flat = dict(flat_facts(facts))
    rows = [(words, flat[name]) for words, name in _MAIN.items() if flat.get(name) is not None]
    if figures := recorded_figures(facts):
        words, headline = f"{figures.headline.words} on its own held-out images", figures.headline
        rows.append((words, _with_unit(headline.value, headline.unit)))
    for name, gate in ((facts.get("parity") or {}).get("gates") or {}).items():
        words = f"Departs from the uncompiled model by at most, {name}"
        rows.append((words, _with_unit(gate["departure"], gate.get("unit", ""))))
    if facts.get("recipe"):
        rows.insert(min(4, len(rows)), ("Distilled by (weight)", distillation(facts)))
    return rows


def _with_unit(number: float | None, unit: str) -> str:
    return f"{value(number)} {unit}".rstrip()


def recorded_figures(facts: Mapping[str, Any]) -> Figures | None:
    """Figures of held-out predictions, as a run or bundle recorded them."""
    recorded = (facts.get("evaluation") or {}).get("figures")
    return figures_from_facts(recorded) if recorded else None


def distillation(facts: Mapping[str, Any]) -> str:
    """The distillation terms of a run or bundle with their weights; ``none`` without a teacher."""
    terms = (facts.get("recipe") or {}).get("distill") or {}
    return ", ".join(f"{name} ({value(weight)})" for name, weight in terms.items()) or "none"


def role(facts: Mapping[str, Any]) -> str:
    """Teacher or student; ``model`` where a run or bundle does not say it."""
    return str((facts.get("recipe") or {}).get("role", "model"))


def backbone(facts: Mapping[str, Any]) -> str:
    """Timm's name of the trunk of a run or bundle; ``unnamed`` where it does not say it."""
    return str(((facts.get("recipe") or {}).get("network") or {}).get("backbone", "unnamed"))
