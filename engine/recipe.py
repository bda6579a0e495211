"""A Recipe: the complete, typed configuration of one training. Recipes are made by functions in jobs/recipes.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from engine.augment import Augmentation
from engine.distill import TERMS
from engine.errors import UnknownNameError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every choice of a training; stored with the run."""

    name: str
    task: str
    role: Literal["teacher", "student"]
    backbone: str
    epochs: int
    batch_size: int = 32
    """Over all workers together."""
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    """Share of all steps."""
    clip_norm: float = 100.0
    ema_decay: float = 0.998
    precision: Literal["f32", "bf16"] = "f32"
    seed: int = 0
    distill: dict[str, float] = field(default_factory=dict)
    """Weight by term name; empty trains without a teacher."""
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse unknown terms and senseless sizes before any work."""
        for name in self.distill:
            if name not in TERMS:
                raise UnknownNameError("distillation term", name, TERMS)
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError("epochs and batch_size must be at least 1")

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``recipe_from_facts`` reads them back."""
        return dataclasses.asdict(self)


def recipe_from_facts(facts: dict[str, Any]) -> Recipe:
    """The Recipe that ``Recipe.facts`` described."""
    return Recipe(**{**facts, "augmentation": Augmentation(**facts["augmentation"])})


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with ``key=value`` changes: ``epochs=3``, ``augmentation.flip=0``, ``distill.kd=0.5``, ``distill=none``.

    Raises:
        UnknownNameError: no such key; carries the nearest.
        UsageError: no ``=``, or the value has the wrong type.
    """
    facts = recipe.facts()
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise UsageError(f"--set takes key=value, not '{change}'")
        _change(facts, key.strip(), value.strip())
    return recipe_from_facts(facts)


def _change(facts: dict[str, Any], key: str, value: str) -> None:
    head, _, tail = key.partition(".")
    if key == "distill" and value == "none":
        facts["distill"] = {}
    elif head == "distill" and tail:
        facts["distill"][tail] = _converted(value, float, key)
    elif head == "augmentation" and tail in facts["augmentation"]:
        facts["augmentation"][tail] = _converted(value, float, key)
    elif key in facts and key not in ("augmentation", "distill"):
        hint = get_type_hints(Recipe)[key]
        facts[key] = _converted(value, hint if hint in (int, float) else str, key)
    else:
        known = [*facts, *(f"augmentation.{k}" for k in facts["augmentation"]), *(f"distill.{k}" for k in TERMS)]
        raise UnknownNameError("recipe key", key, known)


def _converted(value: str, kind: type[Any], key: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise UsageError(f"{key} takes a value of type {kind.__name__}, not '{value}'") from error
