"""hand-age: skeletal maturity in months from a left-hand radiograph and sex.

Age-distribution learning after Chen et al., arXiv 2006.00202: 240 monthly bins, expectation, and KL to a
Gaussian.
"""

from __future__ import annotations

from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.tasks.task import Task

PROJECTION_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: digitised films
)

HAND_AGE = Task(
    name="hand-age",
    label="bone_age_months",
    rule=InputRule(
        sop_classes=PROJECTION_SOP_CLASSES,
        view=View(size_HW=(112, 112)),
        other_body_parts=("ANKLE", "ELBOW", "FOOT", "HIP", "KNEE"),
        body_parts=("HAND", "METACARPUS", "WRIST"),
    ),
    covariates=("sex",),
    origin="Age-distribution learning after Chen et al., arXiv 2006.00202, and distillation to a small "
    "network. Re-implementation from the abstract where the paper was silent.",
)
