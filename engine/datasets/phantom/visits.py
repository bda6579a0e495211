"""Who comes: left hands of invented children for hand-age; for knee-age a knee and the hand of one child.

Each run of five visits is four patients, of whom the first came twice, with one to two and a half years
between the visits. Bone age is that of the child: one for both films of a visit. Chronological age, in the
header, departs from it, so that a model which looks at the chronological age alone is wrong where it matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.datasets.phantom import maturity
from engine.datasets.phantom.archive import Exposure, Phantom
from engine.datasets.phantom.hand import FULL_SCALE, Film, carpal_box, expose
from engine.datasets.phantom.knee import SIDES, expose_knee
from engine.dicom.write import Facts, uid_from
from engine.imaging.boxes import Box

_BLOCK, _PATIENTS_A_BLOCK = 5, 4
_PERSON, _PICTURE, _CHILD, _KNEE_PICTURE = 1, 2, 11, 12  # streams of random numbers that never meet
_INVERTED_SHARE, _WINDOWED_SHARE = 0.15, 0.5
_COMMON_SD_MONTHS, _RARE_SD_MONTHS, _RARE_SHARE = 9.0, 22.0, 0.2
_STEADY_FROM_MONTHS = 60.0
"""Below this age a deviation is smaller in proportion: nobody of two years is two years behind."""
_LEAST_MONTHS, _MOST_MONTHS = 6, 228


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """The films of one day to be: who, and how old. Ages in months; ``side`` is that of the knee."""

    index: int
    patient: int
    sex: str
    side: str = "L"
    bone_age_months: float
    chronological_age_months: int


def _child(
    seed: int, stream: int, index: int, sd_months: Callable[[np.random.Generator], float]
) -> tuple[int, str, float, float]:
    """(Patient, sex, bone age, how far that is ahead of the chronological age) of visit ``index``; months."""
    block, place = divmod(index, _BLOCK)
    again = place == _BLOCK - 1
    patient = block * _PATIENTS_A_BLOCK + (0 if again else place)
    own = np.random.default_rng([seed, stream, patient])
    low, high = maturity.AGE_RANGE_MONTHS
    sex = maturity.SEXES[int(own.integers(2))]
    bone_age = float(own.uniform(low, high))
    ahead, later = float(own.normal(0.0, sd_months(own))), float(own.uniform(12.0, 30.0))
    if again:
        bone_age += later if bone_age + later <= high else -later
    return patient, sex, bone_age, ahead


def plan_hand(seed: int, index: int) -> Visit:
    """Who instance ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Chronological age is bone age less a personal deviation (sd 9 months) and one of the day (sd 4).
    """
    patient, sex, bone_age, ahead = _child(seed, _PERSON, index, lambda own: _COMMON_SD_MONTHS)
    of_the_day = float(np.random.default_rng([seed, _PERSON, patient, index]).normal(0.0, 4.0))
    bone_age = round(bone_age, 1)
    age = max(1, round(bone_age - ahead - of_the_day))
    return Visit(
        index=index, patient=patient, sex=sex, bone_age_months=bone_age, chronological_age_months=age
    )


def plan_knee(seed: int, index: int) -> Visit:
    """Who pair ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Bone less chronological age is a child's own: four children in five have a sd of 9 months, the fifth of 22
    (12.7 over all, with heavy tails), less before the age of five.
    """
    patient, sex, bone_age, ahead = _child(
        seed, _CHILD, index, lambda own: _RARE_SD_MONTHS if own.random() < _RARE_SHARE else _COMMON_SD_MONTHS
    )
    ahead *= min(1.0, bone_age / _STEADY_FROM_MONTHS)
    return Visit(
        index=index,
        patient=patient,
        sex=sex,
        side=SIDES[int(np.random.default_rng([seed, _CHILD, patient, index]).integers(2))],
        bone_age_months=round(bone_age, 1),
        chronological_age_months=min(_MOST_MONTHS, max(_LEAST_MONTHS, round(bone_age - ahead))),
    )


def expose_hand(visit: Visit, seed: int, size: int) -> list[Exposure]:
    """The one film of a visit. Some are MONOCHROME1, some state a window."""
    rng = np.random.default_rng([seed, _PICTURE, visit.index])
    film = expose(visit.bone_age_months, visit.sex, rng, size)
    inverted = rng.random() < _INVERTED_SHARE
    low, high = np.percentile(film.stored_HW[::4, ::4], (2.0, 99.5)).tolist()
    center = FULL_SCALE - (low + high) / 2 if inverted else (low + high) / 2
    window = (round(center), max(1, round((high - low) * float(rng.uniform(0.9, 1.2)))))
    facts = _facts(
        visit, film, _name("hand-age", seed, visit, size), f"phantom-{seed}",
        photometric_interpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        window_center_width=window if rng.random() < _WINDOWED_SHARE else None,
    )  # fmt: skip
    return [
        Exposure(
            file="IM0001.dcm" if visit.index % 3 == 0 else "IM0001",
            stored_HW=(FULL_SCALE - film.stored_HW).astype(np.uint16) if inverted else film.stored_HW,
            facts=facts,
            values={"bone_age_months": visit.bone_age_months},
        )
    ]


def expose_pair(visit: Visit, seed: int, size: int) -> list[Exposure]:
    """Knee and hand of one visit; labels.csv also says which films are a pair."""
    rng = np.random.default_rng([seed, _KNEE_PICTURE, visit.index])
    name, patients = _name("knee-age", seed, visit, size), f"phantom-knee-{seed}"
    knee = expose_knee(visit.bone_age_months, visit.sex, visit.side, rng, size)
    hand = expose(visit.bone_age_months, visit.sex, rng, size)
    facts = [
        _facts(
            visit, knee, name, patients, ("KNEE",),
            body_part_examined="KNEE", view_position="AP", image_laterality=visit.side,
        ),
        _facts(visit, hand, name, patients, ("HAND",)),
    ]  # fmt: skip
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
        for number, film, own, other in zip((1, 2), (knee, hand), facts, facts[::-1], strict=True)
    ]


HANDS = Phantom(plan_visit=plan_hand, expose=expose_hand, labels=("bone_age_months",))
KNEES = Phantom(plan_visit=plan_knee, expose=expose_pair, labels=("bone_age_months",))


def true_carpals(*, count: int, seed: int = 0, size: int = 512) -> dict[str, Box]:
    """The carpal region of each instance of an archive of hands, by SOP instance UID, in original pixels."""
    boxes = {}
    for visit in (plan_hand(seed, index) for index in range(count)):
        rng = np.random.default_rng([seed, _PICTURE, visit.index])
        box = carpal_box(visit.bone_age_months, visit.sex, rng, size)
        boxes[uid_from(*_name("hand-age", seed, visit, size), "instance")] = box
    return boxes


def _name(task: str, seed: int, visit: Visit, size: int) -> tuple[str, ...]:
    return ("phantom", task, str(seed), str(visit.index), str(size))


def _facts(
    visit: Visit, film: Film, name: tuple[str, ...], patients: str, part: tuple[str, ...] = (), **more: Any
) -> Facts:
    """The header of a film, that of a hand but for ``more``; ``part`` tells films of one study apart."""
    spacing = round(film.spacing_mm, 6)
    hand = {"body_part_examined": "HAND", "view_position": "PA", "image_laterality": "L"}
    return Facts(
        sop_instance_uid=uid_from(*name, *part, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, *part, "series"),
        patient_id=f"{patients}-{visit.patient:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.chronological_age_months:03d}M",
        manufacturer="osteoray phantom",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
        **{**hand, **more},
    )
