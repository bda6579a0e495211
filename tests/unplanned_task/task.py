"""The task: ankles, 64 rows x 96 columns, a grade and a box as truth, a laboratory value beside the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.evaluation.answer import Code
from engine.imaging.preprocess import View
from engine.ingest.covariates import SEX, Covariate
from engine.ingest.instance import InputRule
from engine.store.labels import Label
from engine.tasks.task import Task
from tests.unplanned_task.answer import GRADE

if TYPE_CHECKING:
    from engine.training.learning import Learning

JOINT = Label(name="joint", kind="box")
SIZE_HW = (64, 96)


def _protein(value: Any) -> tuple[float, ...]:
    """Scaled to about -1..1, and whether it is known."""
    return (0.0, 0.0) if value is None else ((float(value) - 10.0) / 10.0, 1.0)


PROTEIN = Covariate(
    name="protein", source="table:c_reactive_protein", encode=_protein, unit="mg/l", low=0.0, high=500.0,
    withheld=True,
)  # fmt: skip


def learning() -> Learning:
    """The torch side."""
    from tests.unplanned_task.learning import LEARNING

    return LEARNING


ANKLE_WEAR = Task(
    name="ankle-wear",
    title="Wear of the ankle",
    rule=InputRule(
        sop_classes=("1.2.840.10008.5.1.4.1.1.1.1",),
        view=View(size_HW=SIZE_HW),
        body_parts=("ANKLE",),
    ),
    labels=(Label(name="grade", kind="class", required=True), JOINT),
    covariates=(SEX, PROTEIN),
    answer=GRADE,
    learning=learning,
    anatomy=Code("70258002", "SCT", "Ankle joint"),
    body_part="ANKLE",
    procedure=Code("24541-5", "LN", "XR Ankle Views"),
    origin="Of the tests: no published method.",
)
