"""A Task: what goes in, what the truth is, what is minimised. The science of one clinical question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from engine.distillation.weighted_terms import distillation
from engine.evaluation.answer import Answer, Code
from engine.ingest.covariates import Covariate, chosen, names_of, widths
from engine.ingest.instance import InputRule
from engine.models.batch import Batch
from engine.models.network import Fusion, Head, ModelFacts, Outputs
from engine.models.ordered_bins import joint_loss
from engine.store.labels import Label
from engine.tasks.ages.pseudo_labels import pseudo_label_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How the parts of an objective are weighed: lambda of the joint loss, sd of its soft label, terms."""

    kl: float
    delta_months: float
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the images of a task may say of themselves; see ``engine.deploy.quality``."""

    oldest_months: float | None = None
    """Patients above this age are not those the task is for."""
    is_middle_bright: bool = False
    """Whether bone lies in the middle and air around it, so that an exchange of black and white shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One clinical question: ``rule`` says which instances fit, ``labels`` what a label table may hold.

    ``covariates`` are what the network is given beside the image.
    """

    name: str
    rule: InputRule
    labels: tuple[Label, ...]
    covariates: tuple[Covariate, ...] = ()
    origin: str = ""
    """What the method follows, and where its source was silent: stands on every model card."""
    title: str
    """For people: headings of reports."""
    answer: Answer
    limits: Limits = Limits()
    anatomy: Code
    """The body part in SNOMED CT, for SR and FHIR; ``body_part`` is its DICOM word."""
    body_part: str
    procedure: Code
    """The imaging procedure in LOINC."""

    def objective(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights
    ) -> dict[str, Tensor]:
        """Task loss plus weighted terms; ``loss`` is what is minimised, the rest is for the log."""
        parts = _task_loss(student.logits_BK, batch, weights)
        if teacher is None or not weights.terms:
            return {**parts, "loss": parts["task"]}
        parts |= distillation(student, teacher, batch, weights.terms)
        return {**parts, "loss": parts["task"] + parts["distill"]}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of all labels."""
        return tuple(column for label in self.labels for column in label.columns)

    def restricted(self, names: Sequence[str]) -> Task:
        """The same question for a network with the covariates called ``names`` only; no name leaves all.

        Raises:
            UnknownNameError: the task has no covariate of that name.
        """
        return replace(self, covariates=chosen(self.covariates, names)) if names else self

    def model_facts(
        self,
        backbone: str,
        *,
        num_views: int = 1,
        fusion: Fusion = "late",
        head: Head = "distribution",
        stages: int = 0,
    ) -> ModelFacts:
        """Facts of a network for this question."""
        return ModelFacts(
            backbone=backbone,
            covariates=names_of(self.covariates),
            covariate_columns=widths(self.covariates),
            num_views=num_views,
            fusion=fusion,
            head=head,
            stages=stages,
        )

    def facts(self) -> dict[str, Any]:
        """JSON-able facts for manifests and bundles."""
        return {
            "name": self.name,
            "labels": [label.facts() for label in self.labels],
            "rule": self.rule.facts(),
            "covariates": list(names_of(self.covariates)),
            "origin": self.origin,
        }


def _task_loss(logits_BK: Tensor, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    if batch.pseudo_B2 is None:
        return joint_loss(logits_BK, batch.months_B, weight=weights.kl, delta=weights.delta_months)
    return pseudo_label_loss(logits_BK, batch, weight=weights.kl, least_sd=weights.delta_months)
