"""A Recipe: the complete, typed configuration of one training. Named ones are made in jobs/recipes.py."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from engine.distillation.terms import TERMS
from engine.errors import TrainingError, UnknownNameError, UsageError
from engine.imaging.augment import Augmentation
from engine.ingest.covariates import Covariate, names_of, widths
from engine.models.network import Fusion, Head, ModelFacts, require_backbone
from engine.training.learning import Labels, Parameter

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
    "stages": (0, math.inf),
    "seed": (0, math.inf),
    "folds": (0, math.inf),
    "fold": (0, math.inf),
    "covariate_dropout": (0.0, 1.0),
}

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Which network is trained, and what it starts from."""

    backbone: str
    stages: int = 0
    """Of the backbone, the first so many that are kept, one a halving of the grid; 0 keeps all."""
    fusion: Fusion = "late"
    """How a network sees samples of several views; `engine/models/network.py` tells them apart."""
    head: Head = "distribution"
    """``regression`` is the control: one output, no distribution; take ``objective.kl=0`` with it."""
    weights: str = ""
    """safetensors file to start from: a run's own weights, or a trunk in timm's names; empty is random."""
    learns: Learns = "all"
    """``covariates``: only the layer that takes them; the rest of the network stays as in ``weights``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a training learns from."""

    labels: Labels = "truth"
    """truth, pseudo (labels made by other models; the test split keeps its truth), or both."""
    covariates: tuple[str, ...] = ()
    """Names, if not all of the task's: a control is given less."""
    covariate_dropout: float = 0.0
    """Share of training samples whose withheld covariates are hidden: the network learns to do without."""
    hide_image: bool = False
    """The control that shows what the covariates know alone: every image is the same noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Cross-validation; without folds the usual validation split is taken."""

    folds: int = 0
    """Folds that the samples outside the test split are divided into; 0 for none."""
    fold: int = 0
    """The fold that is held out for validation, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long a training takes, and how its learning rate rises and falls."""

    epochs: int
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises; it then falls as a cosine."""
    patience: int = 0
    """Epochs without a lower validation error after which training ends; the run then leaves the weights of
    its best epoch. 0: all epochs, and the last weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimiser:
    """AdamW, its batches, and the moving average of the weights."""

    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    clip_norm: float = 100.0
    ema_decay: float = 0.998
    batch_size: int = 32
    """Over all workers together."""
    accumulate: int = 1
    """Parts that a worker's share of a batch goes through the network in, one after the other: less memory
    for the same step, but for what a batch norm and a term over pairs see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Number formats and compilation."""

    precision: Precision = "f32"
    teacher_precision: Precision = "bf16"
    """Of the frozen teacher's forward pass; bf16 falls back to f32 on CPUs without it."""
    compile: bool = False
    """Whether the trunk goes through `torch.compile`; the head stays eager, since the term gradcam may
    differentiate it twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every choice of a training; stored with the run."""

    name: str
    task: str
    role: Role
    seed: int = 0
    network: Architecture
    schedule: Schedule
    optimiser: Optimiser = field(default_factory=Optimiser)
    inputs: Inputs = field(default_factory=Inputs)
    split: Split = field(default_factory=Split)
    compute: Compute = field(default_factory=Compute)
    augmentation: Augmentation = field(default_factory=Augmentation)
    objective: dict[str, float] = field(default_factory=dict)
    """Parameters of the task's loss (``Learning.parameters``) that are not at their default."""
    distill: dict[str, float] = field(default_factory=dict)
    """Weight by term name; empty trains without a teacher."""
    ramps: dict[str, float] = field(default_factory=dict)
    """By term name, the share of all steps over which its weight rises from 0; the others start whole."""

    def __post_init__(self) -> None:
        """Refuse unknown names and senseless numbers before any work."""
        require_backbone(self.network.backbone)
        for kind, name, known in (
            ("role", self.role, get_args(Role)),
            ("fusion", self.network.fusion, get_args(Fusion)),
            ("head", self.network.head, get_args(Head)),
            ("choice of what learns", self.network.learns, get_args(Learns)),
            ("precision", self.compute.precision, get_args(Precision)),
            ("teacher_precision", self.compute.teacher_precision, get_args(Precision)),
            ("kind of labels", self.inputs.labels, get_args(Labels)),
            *(("distillation term", term, TERMS) for term in (*self.distill, *self.ramps)),
        ):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        for name, (low, high) in _RANGES.items():
            part = _PART_OF.get(name)
            _require_within(name, getattr(getattr(self, part) if part else self, name), low, high)
        for name, weight in self.distill.items():
            _require_within(f"distill.{name}", weight, 0.0, math.inf)
        for name, share in self.ramps.items():
            _require_within(f"ramps.{name}", share, 0.0, 1.0)
        accumulate, batch_size = self.optimiser.accumulate, self.optimiser.batch_size
        if accumulate > max(batch_size // 2, 1):
            raise UsageError(
                f"accumulate={accumulate} leaves less than two samples a part: batch_size is {batch_size}"
            )
        folds, fold = self.split.folds, self.split.fold
        if folds == 1 or fold >= max(folds, 1):
            raise UsageError(
                f"fold {fold} of {folds} makes no sense: folds is 0 or at least 2, fold below it"
            )

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``recipe_from_facts`` reads them back."""
        facts = asdict(self)
        return {**facts, "inputs": {**facts["inputs"], "covariates": list(self.inputs.covariates)}}


_PARTS: dict[str, type[Any]] = {
    "network": Architecture,
    "schedule": Schedule,
    "optimiser": Optimiser,
    "inputs": Inputs,
    "split": Split,
    "compute": Compute,
    "augmentation": Augmentation,
}
_PART_OF = {one.name: part for part, kind in _PARTS.items() for one in fields(kind)}
"""The part that a field stands in: no two have one of the same name."""
_TABLES = ("objective", "distill", "ramps")


def model_of(recipe: Recipe, covariates: Sequence[Covariate], num_views: int) -> ModelFacts:
    """Facts of the recipe's network for samples of ``num_views`` images with some covariates."""
    return ModelFacts(
        backbone=recipe.network.backbone,
        covariates=names_of(covariates),
        covariate_columns=widths(covariates),
        num_views=num_views,
        fusion=recipe.network.fusion,
        head=recipe.network.head,
        stages=recipe.network.stages,
    )


def objective_of(recipe: Recipe, parameters: Mapping[str, Parameter]) -> dict[str, float]:
    """The parameters of a task's loss: those of the recipe, the others at their default.

    Raises:
        UnknownNameError: the recipe names one that the task does not have.
        UsageError: a value is out of range.
    """
    for name, value in recipe.objective.items():
        if name not in parameters:
            raise UnknownNameError("parameter of the objective", name, parameters)
        _require_within(f"objective.{name}", value, parameters[name].low, parameters[name].high)
    return {name: one.default for name, one in parameters.items()} | recipe.objective


def recipe_from_facts(facts: Mapping[str, Any]) -> Recipe:
    """The Recipe that ``Recipe.facts`` described.

    Raises:
        TrainingError: the facts are of an earlier release.
    """
    try:
        parts = {part: kind(**facts[part]) for part, kind in _PARTS.items()}
        recipe = Recipe(**{**facts, **parts})
    except (KeyError, TypeError) as error:
        raise TrainingError("the recipe was written by an earlier release: train again") from error
    return changed(recipe, covariates=tuple(recipe.inputs.covariates))


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other values of fields, each by its own name, whatever part it stands in."""
    of_part: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        of_part[_PART_OF.get(name, "")][name] = value
    own = of_part.pop("", {})
    parts = {part: replace(getattr(recipe, part), **new) for part, new in of_part.items()}
    return replace(recipe, **own, **parts)


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with ``key=value`` changes, applied in turn.

    For example ``schedule.epochs=3``, or ``epochs=3`` for short, ``augmentation.flip=0``, ``distill.kd=0.5``,
    ``objective.kl=3``, ``covariates=sex``; ``distill=none`` drops all terms.

    Raises:
        UnknownNameError: no such key; carries the nearest.
        UsageError: no ``=``, or the value has the wrong type.
    """
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator:
            raise UsageError(f"--set takes key=value, not '{change}'")
        recipe = changed(recipe, **_change(recipe, key.strip(), value.strip()))
    return recipe


def _change(recipe: Recipe, key: str, value: str) -> dict[str, Any]:
    """The field that a key names, and its new value."""
    if key == "distill" and value == "none":
        return {"distill": {}}
    head, _, tail = key.partition(".")
    if head in _TABLES and tail:
        return {head: {**getattr(recipe, head), tail: _converted(value, float, key)}}
    if head in (*_TABLES, *_PARTS) and not tail:
        raise UsageError(
            f"change one field of {head} at a time, {head}.NAME=VALUE; distill=none drops all terms"
        )
    name = tail if _PART_OF.get(tail) == head else key
    kind = _PARTS[_PART_OF[name]] if name in _PART_OF else Recipe
    hints = get_type_hints(kind)
    if name not in hints:
        keys = [f"{part}.{one}" for one, part in _PART_OF.items()]
        keys += [f"{table}.{term}" for table in ("distill", "ramps") for term in TERMS]
        raise UnknownNameError("recipe key", key, [*_PART_OF, *("name", "task", "role", "seed"), *keys])
    return {name: _converted(value, hints[name], key)}


def _converted(value: str, kind: Any, key: str) -> Any:
    if kind == tuple[str, ...]:
        return tuple(one.strip() for one in value.split(",") if one.strip())
    number = kind if kind in (bool, int, float) else str
    try:
        return _BOOLEANS[value.lower()] if number is bool else number(value)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{key} takes a value of type {number.__name__}, not '{value}'") from error


def _require_within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        above = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
        raise UsageError(f"{name} must be a finite number, {above}")
