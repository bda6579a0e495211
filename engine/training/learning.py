"""How a task is learnt: what a training needs of it beside its samples. The torch side of a task.

Legend: B batch, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.evaluation.answer import Facts, Raw
from engine.evaluation.held_out import HeldOut
from engine.ingest.covariates import Covariate
from engine.models.batch import Batch
from engine.models.network import ModelFacts, Network, Outputs
from engine.store.labels import Label

Truth = Mapping[str, NDArray[np.float32]]
"""Label columns [N] by name, NaN where a sample has none. Points and boxes are in pixels of the view."""


Labels = Literal["truth", "pseudo", "both"]
"""What a training learns from: experts, other models, or both. The test split is judged against the truth
where it is known."""


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
    """What samples are aimed at: columns [N] by name, and whether a sample has all that training needs.

    A column of a label's name takes its place: it is what predictions are judged against.
    """

    columns: Truth
    is_labelled_N: NDArray[np.bool_]


def _one_stratum(targets: Truth) -> NDArray[np.int64]:
    return np.zeros(len(next(iter(targets.values()))), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How one kind of answer is learnt. Plain functions; no class to inherit from."""

    network: Callable[[ModelFacts], Network]
    """A network with random weights, of these facts or of some that it changes (``net.facts``)."""
    objective: Callable[[Outputs, Outputs | None, Batch, Weights], dict[str, Tensor]]
    """Student, teacher, batch -> ``loss``, ``task`` and named parts, the distillation terms included."""
    deployed: Callable[[Network, Facts], nn.Module]
    """Network and calibration -> the graph that is exported: (image, covariates) -> Answer.outputs,
    attention, embedding."""
    kept: Callable[[Outputs], dict[str, Tensor]]
    """What an evaluation keeps of a forward pass, [B, ...] by name."""
    graph_outputs: Callable[[Raw, Facts], Raw]
    """What the deployed graph would give, from what was ``kept`` and a calibration."""
    calibrate: Callable[[HeldOut], Facts]
    """Fitted on the validation split, whose ``raw`` is what was ``kept``; holds ``max_doubt`` and the deciles
    of value and doubt (``validation_value``, ``validation_doubt``)."""
    error: Callable[[Raw, Truth], NDArray[Any]]
    """[N] of what was ``kept`` and the targets, lower is better: ``val/error`` and patience."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    targets: Callable[[Truth, NDArray[np.bool_], Labels], Targets]
    """Label columns, whether a sample is in the test split, and what a recipe learns from -> targets."""
    teacher_view: Callable[[Batch], Batch] = lambda batch: batch
    """What a live teacher sees of a batch."""
    stratum: Callable[[Truth], NDArray[np.int64]] = _one_stratum
    """Targets -> [N] strata that folds are balanced over, beside sex."""


class Learnable(Protocol):
    """What a training needs of a task."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """What a label table may hold."""

    @property
    def covariates(self) -> tuple[Covariate, ...]:
        """What the network is given beside the image."""

    @property
    def learning(self) -> Callable[[], Learning]:
        """How it is learnt; a function of a module, since it travels to the workers."""
