"""A second task, of series: the grade of wear, read from the slices of a CT."""

from __future__ import annotations

from dataclasses import replace

from engine.imaging.preprocess import View
from engine.ingest.covariates import SEX
from engine.ingest.instance import InputRule
from engine.store.labels import Label
from tests.unplanned_task.task import ANKLE_WEAR

SLICES = 4

SPINE_WEAR = replace(
    ANKLE_WEAR,
    name="spine-wear",
    title="Wear of the spine",
    rule=InputRule(
        sop_classes=("1.2.840.10008.5.1.4.1.1.2",),
        view=View(size_HW=(64, 96), steps=(), window=(-200, 600)),
        grain="series",
        slices=SLICES,
    ),
    labels=(Label(name="grade", kind="class", required=True),),
    covariates=(SEX,),
)
