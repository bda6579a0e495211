"""A Recipe: the complete, typed configuration of one training. Named ones are made in jobs/recipes.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from engine.distillation.terms import TERMS
from engine.errors import UnknownNameError, UsageError
from engine.imaging.augment import Augmentation
from engine.ingest.covariates import Covariate, names_of, widths
from engine.models.network import Fusion, Head, ModelFacts, require_backbone
from engine.training.learning import Labels

Role = Literal["teacher", "student"]
Precision = Literal["f32", "bf16"]
Learns = Literal["all", "covariates"]

_RANGES = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulate": (1, math.inf),
    "patience": (0, math.inf),
    "learning_rate": (0.0, math.inf),
    "weight_decay": (0.0, math.inf),
    "warmup": (0.0, 1.0),
    "clip_norm": (0.0, math.inf),
    "ema_decay": (0.0, 1.0),
    "kl_weight": (0.0, math.inf),
    "delta_months": (0.5, math.inf),
    "stages": (0, math.inf),
    "seed": (0, math.inf),
    "folds": (0, math.inf),
    "fold": (0, math.inf),
    "covariate_dropout": (0.0, 1.0),
}

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every choice of a training; stored with the run."""

    name: str
    task: str
    role: Role
    backbone: str
    stages: int = 0
    """Of the backbone, the first so many that are kept, one a halving of the grid; 0 keeps all."""
    weights: str = ""
    """safetensors file to start from: a run's own weights, or a trunk in timm's names; empty is random."""
    learns: Learns = "all"
    """``covariates``: only the layer that takes them, over a network that goes on as ``weights`` has it."""
    epochs: int
    batch_size: int = 32
    """Over all workers together."""
    accumulate: int = 1
    """Parts that a worker's share of a batch goes through the network in, one after the other: less memory
    for the same step, but for what a batch norm and a term over pairs see."""
    patience: int = 0
    """Epochs without a lower validation error after which training ends; the run then leaves the weights of
    its best epoch. 0: all epochs, and the last weights."""
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    """Share of all steps."""
    clip_norm: float = 100.0
    ema_decay: float = 0.998
    precision: Precision = "f32"
    teacher_precision: Precision = "bf16"
    """Of the frozen teacher's forward pass; bf16 falls back to f32 on CPUs without it."""
    compile: bool = False
    """Whether the trunk goes through `torch.compile`; the head stays eager, since the term gradcam may
    differentiate it twice."""
    seed: int = 0
    folds: int = 0
    """Folds that the samples outside the test split are divided into; 0 takes the usual validation split."""
    fold: int = 0
    """The fold that is held out for validation, from 0."""
    labels: Labels = "truth"
    """truth, pseudo (labels made by other models; the test split keeps its truth), or both."""
    hide_image: bool = False
    """The control that shows what the covariates know alone: every image is the same noise."""
    covariates: str = ""
    """Names joined by commas, if not all of the task's: a control is told less."""
    covariate_dropout: float = 0.0
    """Share of training samples whose chronological age is hidden: the network learns to do without."""
    fusion: Fusion = "late"
    """How a network sees samples of several views; `engine/models/network.py` tells them apart."""
    head: Head = "distribution"
    """``regression`` is the control: one output, no distribution; take ``kl_weight=0`` with it."""
    kl_weight: float = 10.0
    """lambda of the joint loss. The paper's 0.1 to 1 leaves the predicted sd without meaning: its absolute
    error is in months, and its gradient swamps that of the distribution."""
    delta_months: float = 10.0
    """sd of the Gaussian soft label."""
    distill: dict[str, float] = field(default_factory=dict)
    """Weight by term name; empty trains without a teacher."""
    ramps: dict[str, float] = field(default_factory=dict)
    """By term name, the share of all steps over which its weight rises from 0; the others start whole."""
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse unknown names and senseless numbers before any work."""
        require_backbone(self.backbone)
        for kind, name, known in (
            ("role", self.role, get_args(Role)),
            ("fusion", self.fusion, get_args(Fusion)),
            ("head", self.head, get_args(Head)),
            ("choice of what learns", self.learns, get_args(Learns)),
            ("precision", self.precision, get_args(Precision)),
            ("teacher_precision", self.teacher_precision, get_args(Precision)),
            ("kind of labels", self.labels, get_args(Labels)),
            *(("distillation term", term, TERMS) for term in (*self.distill, *self.ramps)),
        ):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        numbers = {name: (getattr(self, name), *limits) for name, limits in _RANGES.items()}
        numbers |= {f"distill.{name}": (weight, 0.0, math.inf) for name, weight in self.distill.items()}
        numbers |= {f"ramps.{name}": (share, 0.0, 1.0) for name, share in self.ramps.items()}
        for name, (value, low, high) in numbers.items():
            if not (math.isfinite(value) and low <= value <= high):
                above = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
                raise UsageError(f"{name} must be a finite number, {above}")
        if self.accumulate > max(self.batch_size // 2, 1):
            raise UsageError(
                f"accumulate={self.accumulate} leaves less than two samples a part: batch_size is "
                f"{self.batch_size}"
            )
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            raise UsageError(
                f"fold {self.fold} of {self.folds} makes no sense: folds is 0 or at least 2, fold below it"
            )

    @property
    def told(self) -> tuple[str, ...]:
        """The names in ``covariates``."""
        return tuple(name.strip() for name in self.covariates.split(",") if name.strip())

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``recipe_from_facts`` reads them back."""
        return dataclasses.asdict(self)


def model_of(recipe: Recipe, covariates: Sequence[Covariate], num_views: int) -> ModelFacts:
    """Facts of the recipe's network for samples of ``num_views`` images with some covariates."""
    return ModelFacts(
        backbone=recipe.backbone,
        covariates=names_of(covariates),
        covariate_columns=widths(covariates),
        num_views=num_views,
        fusion=recipe.fusion,
        head=recipe.head,
        stages=recipe.stages,
    )


def recipe_from_facts(facts: dict[str, Any]) -> Recipe:
    """The Recipe that ``Recipe.facts`` described."""
    return Recipe(**{**facts, "augmentation": Augmentation(**facts["augmentation"])})


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with ``key=value`` changes, applied in turn.

    For example ``epochs=3``, ``augmentation.flip=0``, ``distill.kd=0.5``; ``distill=none`` drops all terms.

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
    elif head in ("distill", "ramps") and tail:
        facts[head][tail] = _converted(value, float, key)
    elif head == "augmentation" and tail in facts["augmentation"]:
        facts["augmentation"][tail] = _converted(value, float, key)
    elif key in ("augmentation", "distill", "ramps"):
        raise UsageError(
            f"change one part of {key} at a time, {key}.NAME=NUMBER; distill=none drops all terms"
        )
    elif key in facts:
        hint = get_type_hints(Recipe)[key]
        facts[key] = _converted(value, hint if hint in (bool, int, float) else str, key)
    else:
        parts = [f"augmentation.{name}" for name in facts["augmentation"]]
        parts += [f"{part}.{name}" for part in ("distill", "ramps") for name in TERMS]
        raise UnknownNameError("recipe key", key, [*facts, *parts])


def _converted(value: str, kind: type[Any], key: str) -> Any:
    try:
        return _BOOLEANS[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{key} takes a value of type {kind.__name__}, not '{value}'") from error
