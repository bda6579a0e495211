"""sos-stage: five stages of fusion of the spheno-occipital synchondrosis from a head film seen from the side.

Crop-to-full distillation after Milani et al. 2025: the teacher sees the manual crop, the student the whole
film. Re-implementation from the abstract: number of stages, image size, form and weights of the losses are
our choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.evaluation.answer import Code
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.tasks.hand_age import FILM_MODALITIES, LEAST_PX, PROJECTION_SOP_CLASSES
from engine.tasks.sos_stage.answer import STAGE
from engine.tasks.sos_stage.labels import REGION, TRUTH
from engine.tasks.task import Task

if TYPE_CHECKING:
    from engine.training.learning import Learning


def learning() -> Learning:
    """How it is learnt."""
    from engine.tasks.sos_stage.learning import STAGE_LEARNING

    return STAGE_LEARNING


CEPHALOGRAM = Code("43787-1", "LN", "XR Skull, facial bones and mandible, for dental measurement")

SOS_STAGE = Task(
    name="sos-stage",
    title="Fusion of the spheno-occipital synchondrosis",
    rule=InputRule(
        sop_classes=PROJECTION_SOP_CLASSES,
        view=View(size_HW=(384, 384)),
        body_parts=("SKULL", "HEAD"),
        modalities=FILM_MODALITIES,
        views=("LAT", "LL", "RL"),
        least_px=LEAST_PX,
    ),
    labels=(TRUTH, REGION),
    answer=STAGE,
    learning=learning,
    anatomy=Code("89546000", "SCT", "Skull"),
    body_part="SKULL",
    procedure=CEPHALOGRAM,
    origin="Crop-to-full distillation after Milani et al. 2025: the teacher sees the manual crop, the "
    "student the whole film and nothing else. Re-implementation from the abstract; stages, losses and "
    "weights are our own.",
)
