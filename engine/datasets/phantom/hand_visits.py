"""Left hands of invented children, for hand-age: who comes, and what the headers say.

Each run of five visits is four patients, of whom the first came twice, with one to two and a half years
between the visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.datasets.phantom import maturity
from engine.datasets.phantom.archive import Exposure, Phantom
from engine.datasets.phantom.hand import FULL_SCALE, Film, carpal_box, expose
from engine.dicom.write import Facts, uid_from
from engine.imaging.boxes import Box

_BLOCK, _PATIENTS_A_BLOCK = 5, 4
_PERSON, _PICTURE = 1, 2  # streams of random numbers that never meet
_INVERTED_SHARE, _WINDOWED_SHARE = 0.15, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One instance to be: who, and how old. Ages in months."""

    index: int
    patient: int
    sex: str
    bone_age_months: float
    chronological_age_months: int


def plan_visit(seed: int, index: int) -> Visit:
    """Who instance ``index`` shows. Bone ages are spread evenly over 12..216 months.

    Chronological age is bone age less a personal deviation (sd 9 months) and one of the day (sd 4).
    """
    block, place = divmod(index, _BLOCK)
    again = place == _BLOCK - 1
    patient = block * _PATIENTS_A_BLOCK + (0 if again else place)
    person = np.random.default_rng([seed, _PERSON, patient])
    low, high = maturity.AGE_RANGE_MONTHS
    sex = maturity.SEXES[int(person.integers(2))]
    bone_age = float(person.uniform(low, high))
    ahead = float(person.normal(0.0, 9.0))
    later = float(person.uniform(12.0, 30.0))
    if again:
        bone_age += later if bone_age + later <= high else -later
    of_the_day = float(np.random.default_rng([seed, _PERSON, patient, index]).normal(0.0, 4.0))
    bone_age = round(bone_age, 1)
    return Visit(
        index=index,
        patient=patient,
        sex=sex,
        bone_age_months=bone_age,
        chronological_age_months=max(1, round(bone_age - ahead - of_the_day)),
    )


def expose_visit(visit: Visit, seed: int, size: int) -> list[Exposure]:
    """The one film of a visit. Some are MONOCHROME1, some state a window."""
    rng = np.random.default_rng([seed, _PICTURE, visit.index])
    film = expose(visit.bone_age_months, visit.sex, rng, size)
    facts = _facts(visit, film, rng, seed, size)
    stored_HW = film.stored_HW
    if facts.photometric_interpretation == "MONOCHROME1":
        stored_HW = (FULL_SCALE - stored_HW).astype(np.uint16)
    return [
        Exposure(
            file="IM0001.dcm" if visit.index % 3 == 0 else "IM0001",
            stored_HW=stored_HW,
            facts=facts,
            values={"bone_age_months": visit.bone_age_months},
        )
    ]


HANDS = Phantom(plan_visit=plan_visit, expose=expose_visit, labels=("bone_age_months",))


def true_carpals(*, count: int, seed: int = 0, size: int = 512) -> dict[str, Box]:
    """The carpal region of each instance of such an archive, by SOP instance UID, in original pixels."""
    boxes = {}
    for visit in (plan_visit(seed, index) for index in range(count)):
        rng = np.random.default_rng([seed, _PICTURE, visit.index])
        box = carpal_box(visit.bone_age_months, visit.sex, rng, size)
        boxes[uid_from(*_name(seed, visit.index, size), "instance")] = box
    return boxes


def _name(seed: int, index: int, size: int) -> tuple[str, ...]:
    return ("phantom", "hand-age", str(seed), str(index), str(size))


def _facts(visit: Visit, film: Film, rng: np.random.Generator, seed: int, size: int) -> Facts:
    name = _name(seed, visit.index, size)
    inverted = rng.random() < _INVERTED_SHARE
    low, high = np.percentile(film.stored_HW[::4, ::4], (2.0, 99.5)).tolist()
    center = FULL_SCALE - (low + high) / 2 if inverted else (low + high) / 2
    window = (round(center), max(1, round((high - low) * float(rng.uniform(0.9, 1.2)))))
    spacing = round(film.spacing_mm, 6)
    return Facts(
        sop_instance_uid=uid_from(*name, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, "series"),
        patient_id=f"phantom-{seed}-{visit.patient:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.chronological_age_months:03d}M",
        manufacturer="osteoray phantom",
        body_part_examined="HAND",
        view_position="PA",
        image_laterality="L",
        photometric_interpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
        window_center_width=window if rng.random() < _WINDOWED_SHARE else None,
    )
