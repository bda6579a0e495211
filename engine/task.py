"""A Task: what goes in, what the truth is, what is minimised. The science of one clinical question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.age_distribution import joint_loss
from engine.batch import Batch
from engine.distill import distillation
from engine.instance import InputRule
from engine.models import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the parts of an objective are weighed: lambda of the joint loss, sd of its soft label, terms."""

    kl: float
    delta_months: float
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One clinical question: ``label`` is the column of truth, in months; ``rule`` says what fits."""

    name: str
    label: str
    rule: InputRule

    def objective(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights
    ) -> dict[str, Tensor]:
        """Task loss plus weighted terms; ``loss`` is what is minimised, the rest is for the log."""
        parts = joint_loss(student.logits_BK, batch.months_B, weight=weights.kl, delta=weights.delta_months)
        if teacher is None or not weights.terms:
            return {**parts, "loss": parts["task"]}
        parts |= distillation(student, teacher, batch, weights.terms)
        return {**parts, "loss": parts["task"] + parts["distill"]}

    def facts(self) -> dict[str, Any]:
        """JSON-able facts for manifests and bundles."""
        return {"name": self.name, "label": self.label, "rule": self.rule.facts()}
