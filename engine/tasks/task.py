"""A Task: what goes in, what it answers, how it is learnt. The science of one clinical question. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.evaluation.answer import Answer, Code
from engine.ingest.covariates import Covariate, chosen, names_of
from engine.ingest.instance import InputRule
from engine.store.labels import Label

if TYPE_CHECKING:
    from engine.training.learning import Learning


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
    learning: Callable[[], Learning]
    """A function of a module; it imports torch inside itself."""
    limits: Limits = Limits()
    anatomy: Code
    """The body part in SNOMED CT, for SR and FHIR; ``body_part`` is its DICOM word."""
    body_part: str
    procedure: Code
    """The imaging procedure in LOINC."""

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

    def facts(self) -> dict[str, Any]:
        """JSON-able facts for manifests and bundles."""
        return {
            "name": self.name,
            "labels": [label.facts() for label in self.labels],
            "rule": self.rule.facts(),
            "covariates": list(names_of(self.covariates)),
            "origin": self.origin,
        }
