"""Who comes for `sos-stage`: one film of the head from the side of each child, and two readers of it.

Of each 13 children 4 are for training, 1 for validation and 8 for the test: 1,300 films give 400, 100, 800.
Training and validation learn from reader 1, who sees the fused part with an error (sd 0.08); the test has the
exact stage, and reader 2 beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.datasets.archive import Value
from engine.datasets.phantom.archive import Exposure, Phantom
from engine.datasets.phantom.head import STAGE_EDGES, expose_head, stage_of
from engine.datasets.phantom.maturity import SEXES
from engine.dicom.write import Facts, uid_from

READER_SD = 0.08
_STAGE_SHARES = (0.15, 0.7 / 3, 0.7 / 3, 0.7 / 3, 0.15)
_SPLITS = (
    "train",
    "test",
    "test",
    "train",
    "test",
    "test",
    "val",
    "test",
    "train",
    "test",
    "test",
    "train",
    "test",
)
_CHILD, _PICTURE = 21, 22  # streams of random numbers, apart from those of the other phantoms
_YOUNGEST_MONTHS, _GROWING_MONTHS, _AGE_SD_MONTHS = 84.0, 120.0, 14.0
_WINDOWED_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadVisit:
    """One child: the fused part of the synchondrosis, what two readers say, and a chronological age."""

    index: int
    patient: int
    sex: str
    fused: float
    readers: tuple[int, int]
    age_months: int


def plan_head(seed: int, index: int) -> HeadVisit:
    """Who instance ``index`` shows: a stage by its share, and a fused part evenly within it."""
    rng = np.random.default_rng([seed, _CHILD, index])
    edges = (0.0, *STAGE_EDGES, 1.0)
    stage = int(rng.choice(len(_STAGE_SHARES), p=_STAGE_SHARES))
    fused = round(float(rng.uniform(edges[stage], edges[stage + 1])), 4)
    first, second = (stage_of(fused + float(error)) for error in rng.normal(0.0, READER_SD, 2))
    age = _YOUNGEST_MONTHS + _GROWING_MONTHS * fused + float(rng.normal(0.0, _AGE_SD_MONTHS))
    return HeadVisit(
        index=index,
        patient=index,
        sex=SEXES[int(rng.integers(len(SEXES)))],
        fused=fused,
        readers=(first, second),
        age_months=max(round(age), 12),
    )


def expose_film(visit: HeadVisit, seed: int, size: int) -> list[Exposure]:
    """The one film of a child, ``size`` x ``size``; half of them state a window."""
    rng = np.random.default_rng([seed, _PICTURE, visit.index])
    drawn = expose_head(visit.fused, rng, size)
    name = ("phantom", "sos-stage", str(seed), str(visit.index), str(size))
    spacing = round(drawn.film.spacing_mm, 6)
    low, high = np.percentile(drawn.film.stored_HW[::4, ::4], (1.0, 99.5)).tolist()
    window = (round((low + high) / 2), max(1, round((high - low) * float(rng.uniform(0.9, 1.2)))))
    box = drawn.box
    facts = Facts(
        sop_instance_uid=uid_from(*name, "instance"),
        study_instance_uid=uid_from(*name, "study"),
        series_instance_uid=uid_from(*name, "series"),
        patient_id=f"phantom-head-{seed}-{visit.patient:06d}",
        patient_sex=visit.sex,
        patient_age=f"{visit.age_months:03d}M",
        manufacturer="osteoray phantom",
        body_part_examined="SKULL",
        view_position="LL",
        bits_stored=12,
        imager_pixel_spacing_mm=(spacing, spacing),
        window_center_width=window if rng.random() < _WINDOWED_SHARE else None,
    )
    exact = stage_of(visit.fused)
    stage = exact if split_of_visit(visit) == "test" else visit.readers[0]
    values: dict[str, Value] = {
        "sos_stage": float(stage),
        "sos_left": round(box.left, 2),
        "sos_top": round(box.top, 2),
        "sos_right": round(box.right, 2),
        "sos_bottom": round(box.bottom, 2),
        "exact_stage": float(exact),
        "reader_2": float(visit.readers[1]),
        "fused": visit.fused,
    }
    return [Exposure(file="IM0001", stored_HW=drawn.film.stored_HW, facts=facts, values=values)]


def split_of_visit(visit: HeadVisit) -> str:
    """The split of labels.csv."""
    return _SPLITS[visit.index % len(_SPLITS)]


HEADS = Phantom(
    plan_visit=plan_head,
    expose=expose_film,
    labels=("sos_stage", "sos_left", "sos_top", "sos_right", "sos_bottom"),
    split=split_of_visit,
)
