"""How a task is learnt: what a training needs of it beside its samples. The torch side of a task.

Legend: B batch, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.evaluation.answer import Facts, Raw
from engine.evaluation.held_out import HeldOut
from engine.models.batch import Batch
from engine.models.network import ModelFacts, Outputs

Truth = Mapping[str, NDArray[np.float32]]
"""Label columns [N] by name, NaN where a sample has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the parts of an objective are weighed: the task's own parameters, and the distillation terms."""

    task: Mapping[str, float]
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number of an objective that a recipe may set (``--set objective.NAME=...``), and its range."""

    default: float
    low: float
    high: float
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What samples are aimed at: columns [N] by name, and whether a sample has all that training needs."""

    columns: Truth
    is_labelled_N: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How one kind of answer is learnt. Plain functions; no class to inherit from."""

    network: Callable[[ModelFacts], nn.Module]
    """A network with random weights; forward(image_BVHW, covariates_BQ) -> Outputs."""
    objective: Callable[[Outputs, Outputs | None, Batch, Weights], dict[str, Tensor]]
    """Student, teacher, batch -> ``loss``, ``task`` and named parts, the distillation terms included."""
    deployed: Callable[[nn.Module, Facts], nn.Module]
    """Network and calibration -> the graph that is exported: (image, covariates) -> Answer.outputs,
    attention, embedding."""
    kept: Callable[[Outputs], dict[str, Tensor]]
    """What an evaluation keeps of a forward pass, [B, ...] by name."""
    graph_outputs: Callable[[Raw, Facts], Raw]
    """What the deployed graph would give, from what was ``kept`` and a calibration."""
    calibrate: Callable[[HeldOut], Facts]
    """Fitted on the validation split, whose ``raw`` is what was ``kept``; holds ``max_doubt`` and the deciles
    of value and doubt (``validation_value``, ``validation_doubt``)."""
    error: Callable[[Raw, Truth], NDArray[np.float64]]
    """[N] of what was ``kept`` and the targets, lower is better: ``val/error`` and patience."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    targets: Callable[[Truth, NDArray[np.bool_], str], Targets]
    """Label columns, whether a sample is in the test split, and what a recipe learns from (truth, pseudo,
    both) -> targets."""
    teacher_view: Callable[[Batch], Batch] = lambda batch: batch
    """What a live teacher sees of a batch."""
    stratum: Callable[[Truth], NDArray[np.int64]] | None = None
    """[N] strata that folds are balanced over; None makes one."""


def one_stratum(truth: Truth) -> NDArray[np.int64]:
    """All samples alike."""
    first: NDArray[Any] = next(iter(truth.values()))
    return np.zeros(len(first), np.int64)
