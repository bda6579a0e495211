"""hand-age: skeletal maturity in months from a left-hand radiograph and sex.

Age-distribution learning after Chen et al., arXiv 2006.00202: 240 monthly bins, expectation, and KL to a
Gaussian.
"""

from __future__ import annotations

from engine.evaluation.answer import Code
from engine.imaging.preprocess import View
from engine.ingest.covariates import SEX
from engine.ingest.instance import InputRule
from engine.tasks.ages import learning_of_ages
from engine.tasks.ages.answer import AGE
from engine.tasks.ages.inputs import BONE_AGE
from engine.tasks.task import Limits, Task

PROJECTION_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: digitised films
)

FILM_MODALITIES = ("CR", "DX", "OT", "RG")
"""Plates, detectors, and films that were digitised; fluoroscopy (RF) has other contrast and distorts."""
FRONTAL_VIEWS = ("AP", "PA")
"""Both show the same outline; which of them a film is does not matter."""
LEAST_PX = 64
"""A hand of 20 cm at 3 mm a pixel: growth plates of 1 to 2 mm are gone. Sets of 100 x 100 are in use."""
BONE_AGE_VIEWS = Code("24724-7", "LN", "XR Bones Views for bone age")

HAND_AGE = Task(
    name="hand-age",
    labels=(BONE_AGE,),
    rule=InputRule(
        sop_classes=PROJECTION_SOP_CLASSES,
        view=View(size_HW=(112, 112)),
        body_parts=("HAND", "METACARPUS", "WRIST"),
        modalities=FILM_MODALITIES,
        views=FRONTAL_VIEWS,
        least_px=LEAST_PX,
        mirrored_laterality="R",  # an atlas of bone age shows left hands
    ),
    covariates=(SEX,),
    title="Bone age of the hand",
    answer=AGE,
    learning=learning_of_ages,
    limits=Limits(oldest_months=20 * 12.0, is_middle_bright=True),
    anatomy=Code("85562004", "SCT", "Hand"),
    body_part="HAND",
    procedure=BONE_AGE_VIEWS,
    origin="Age-distribution learning after Chen et al., arXiv 2006.00202, and distillation to a small "
    "network. Re-implementation from the abstract where the paper was silent.",
)
