"""knee-age: skeletal maturity in months from an AP knee radiograph, sex and chronological age.

A model of hands gives it both a start and labels: pseudo-labels with their spread, made of the hand film of
the same child (``engine.tasks.ages.pseudo_labels``). Re-implementation from the abstract of
DOI 10.1177/23259671261424923, which names ConvNeXt, both covariates and five folds; what it does not say is
chosen as in age-distribution learning (arXiv 2006.00202).
"""

from __future__ import annotations

from engine.evaluation.answer import Code
from engine.imaging.preprocess import View
from engine.ingest.covariates import SEX
from engine.ingest.instance import InputRule
from engine.tasks.ages import learning_of_ages
from engine.tasks.ages.answer import AGE
from engine.tasks.ages.inputs import BONE_AGE, CHRONOLOGICAL_AGE, PSEUDO_LABELS
from engine.tasks.hand_age import (
    BONE_AGE_VIEWS,
    FILM_MODALITIES,
    FRONTAL_VIEWS,
    LEAST_PX,
    PROJECTION_SOP_CLASSES,
)
from engine.tasks.task import Limits, Task

KNEE_AGE = Task(
    name="knee-age",
    labels=(BONE_AGE, *PSEUDO_LABELS),
    rule=InputRule(
        sop_classes=PROJECTION_SOP_CLASSES,
        view=View(size_HW=(112, 112)),
        body_parts=("KNEE", "PATELLA"),
        modalities=FILM_MODALITIES,
        views=FRONTAL_VIEWS,
        least_px=LEAST_PX,
        mirrored_laterality="L",
    ),
    covariates=(SEX, CHRONOLOGICAL_AGE),
    title="Bone age of the knee",
    answer=AGE,
    learning=learning_of_ages,
    # Of 60 real knees, 28 % have a darker middle, so black and white are not asked about.
    limits=Limits(oldest_months=25 * 12.0),
    anatomy=Code("72696002", "SCT", "Knee"),
    body_part="KNEE",
    procedure=BONE_AGE_VIEWS,
    origin="Knee bone age after DOI 10.1177/23259671261424923, by transfer from a hand model and its "
    "pseudo-labels: a re-implementation from the abstract, with our own choices where it is silent.",
)
