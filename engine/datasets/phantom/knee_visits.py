"""Knees of invented children, for knee-age: a knee of each visit, and the hand of the same child on that day.

Bone age is that of the child: one for both films. Chronological age, in the header, departs from it, so that
a model which looks at the chronological age alone is wrong where it matters. labels.csv also says which films
are a pair. Each fifth visit is the second one of a child.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.datasets.phantom import maturity
from engine.datasets.phantom.archive import Exposure, Phantom
from engine.datasets.phantom.hand import Film, expose
from engine.datasets.phantom.knee import SIDES, expose_knee
from engine.dicom.write import Facts, uid_from

PARTS = ("KNEE", "HAND")
_BLOCK, _PATIENTS_A_BLOCK = 5, 4
_CHILD, _PICTURE = 11, 12  # streams of random numbers that never meet
_COMMON_SD_MONTHS, _RARE_SD_MONTHS, _RARE_SHARE = 9.0, 22.0, 0.2
_STEADY_FROM_MONTHS = 60.0
"""Below this age a deviation is smaller in proportion: nobody of two years is two years behind."""
_LEAST_MONTHS, _MOST_MONTHS = 6, 228


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One pair of films to be. Ages in months; ``side`` is that of the knee."""

    index: int
    patient: int
    sex: str
    side: str
    bone_age_months: float
    chronological_age_months: int


def plan_visit(seed: int, index: int) -> Visit:
    """Who pair ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Bone less chronological age is a child's own: four children in five have a sd of 9 months, the fifth of 22
    (12.7 over all, with heavy tails), less before the age of five.
    """
    block, place = divmod(index, _BLOCK)
    again = place == _BLOCK - 1
    patient = block * _PATIENTS_A_BLOCK + (0 if again else place)
    own = np.random.default_rng([seed, _CHILD, patient])
    low, high = maturity.AGE_RANGE_MONTHS
    sex = maturity.SEXES[int(own.integers(2))]
    bone_age = float(own.uniform(low, high))
    sd = _RARE_SD_MONTHS if own.random() < _RARE_SHARE else _COMMON_SD_MONTHS
    ahead, later = float(own.normal(0.0, sd)), float(own.uniform(12.0, 30.0))
    if again:
        bone_age += later if bone_age + later <= high else -later
    ahead *= min(1.0, bone_age / _STEADY_FROM_MONTHS)
    return Visit(
        index=index,
        patient=patient,
        sex=sex,
        side=SIDES[int(np.random.default_rng([seed, _CHILD, patient, index]).integers(2))],
        bone_age_months=round(bone_age, 1),
        chronological_age_months=min(_MOST_MONTHS, max(_LEAST_MONTHS, round(bone_age - ahead))),
    )


def expose_visit(visit: Visit, seed: int, size: int) -> list[Exposure]:
    """Knee and hand of one visit."""
    rng = np.random.default_rng([seed, _PICTURE, visit.index])
    films = (
        expose_knee(visit.bone_age_months, visit.sex, visit.side, rng, size),
        expose(visit.bone_age_months, visit.sex, rng, size),
    )
    facts = [_facts(visit, part, film, seed, size) for part, film in zip(PARTS, films, strict=True)]
    return [
        Exposure(
            file=f"IM{number:04d}",
            stored_HW=film.stored_HW,
            facts=own,
            values={
                "bone_age_months": visit.bone_age_months,
                "chronological_age_months": visit.chronological_age_months,
                "body_part": own.body_part_examined or "",
                "paired_sop_instance_uid": other.sop_instance_uid,
            },
        )
        for number, (film, own, other) in enumerate(zip(films, facts, reversed(facts), strict=True), start=1)
    ]


KNEES = Phantom(plan_visit=plan_visit, expose=expose_visit, labels=("bone_age_months",))


def _facts(visit: Visit, part: str, film: Film, seed: int, size: int) -> Facts:
    name = ("phantom", "knee-age", str(seed), str(visit.index), str(size))
    spacing = round(film.spacing_mm, 6)
    return Facts(
        sop_instance_uid=uid_from(*name, part, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, part, "series"),
        patient_id=f"phantom-knee-{seed}-{visit.patient:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.chronological_age_months:03d}M",
        manufacturer="osteoray phantom",
        body_part_examined=part,
        view_position="AP" if part == "KNEE" else "PA",
        image_laterality=visit.side if part == "KNEE" else "L",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
    )
