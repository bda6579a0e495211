"""The rule of the phantoms: what bone age and sex make of each ossification centre. No drawing here.

A centre *appears* and grows to its *full* extent; where it is an epiphysis, its growth plate starts *fusing*
and is *fused*.

Extent of a centre at age a:     0.2 + 0.8 ((a - appears) / (full - appears))^0.6, at most 1; 0 before.
Fusion of a growth plate:        (a - fusing) / (fused - fusing), held within 0..1.
Length of bones:                 a fraction of the adult length, GROWTH below; girls end at 0.92 of boys.

Orders and ages follow the usual textbook sequence (Greulich and Pyle; Gilsanz and Ratib), rounded: good
enough to be learnt, of no use for diagnosis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import UsageError

SEXES = ("M", "F")
AGE_RANGE_MONTHS = (12.0, 216.0)
LAG_SD_MONTHS = 2.5


@dataclass(frozen=True, slots=True)
class Centre:
    """Ages in months, each (boys, girls). ``fusing`` and ``fused`` are None where nothing fuses."""

    appears: tuple[float, float]
    full: tuple[float, float]
    fusing: tuple[float, float] | None = None
    fused: tuple[float, float] | None = None


CARPALS: dict[str, Centre] = {
    "capitate": Centre((3, 2), (156, 132)),
    "hamate": Centre((4, 3), (156, 132)),
    "triquetrum": Centre((29, 22), (156, 132)),
    "lunate": Centre((46, 34), (156, 132)),
    "scaphoid": Centre((66, 50), (162, 138)),
    "trapezium": Centre((68, 48), (162, 138)),
    "trapezoid": Centre((70, 52), (162, 138)),
    "pisiform": Centre((118, 98), (168, 144)),
}
SESAMOID = Centre((156, 132), (186, 162))
EPIPHYSES: dict[str, Centre] = {
    "distal": Centre((22, 14), (126, 102), (165, 141), (180, 156)),
    "middle": Centre((22, 14), (132, 108), (171, 147), (189, 165)),
    "proximal": Centre((16, 10), (126, 102), (174, 150), (192, 168)),
    "metacarpal-1": Centre((30, 20), (132, 108), (174, 150), (192, 168)),
    "metacarpal": Centre((19, 13), (132, 108), (177, 153), (195, 171)),
    "ulna": Centre((74, 64), (150, 126), (183, 159), (204, 183)),
    "radius": Centre((12, 9), (138, 114), (189, 165), (213, 189)),
}

KNEE: dict[str, Centre] = {
    "femur": Centre((-1, -2), (150, 126), (186, 162), (213, 189)),
    "tibia": Centre((0, -1), (156, 132), (180, 156), (207, 183)),
    "fibula": Centre((50, 36), (156, 132), (183, 159), (210, 186)),
    "patella": Centre((54, 36), (162, 138)),
    "tubercle": Centre((144, 120), (180, 156), (183, 159), (207, 183)),
}

GROWTH_MONTHS = (0, 12, 24, 48, 72, 96, 120, 144, 168, 192, 216)
GROWTH: dict[str, tuple[float, ...]] = {
    "M": (0.34, 0.43, 0.50, 0.59, 0.66, 0.73, 0.79, 0.86, 0.95, 0.99, 1.00),
    "F": (0.31, 0.41, 0.47, 0.56, 0.635, 0.71, 0.78, 0.865, 0.91, 0.92, 0.92),
}
"""Bone length at GROWTH_MONTHS as a fraction of a grown man's; between them a straight line."""


def extent(centre: Centre, bone_age_months: float, sex: str) -> float:
    """How much of the centre is bone, 0..1: 0 is not there, 1 is its grown shape."""
    girl = SEXES.index(sex)
    grown = (bone_age_months - centre.appears[girl]) / (centre.full[girl] - centre.appears[girl])
    return 0.0 if grown < 0 else min(1.0, 0.2 + 0.8 * grown**0.6)


def fusion(centre: Centre, bone_age_months: float, sex: str) -> float:
    """How far the growth plate has closed, 0 open .. 1 gone; 0 for a centre that never fuses."""
    if centre.fusing is None or centre.fused is None:
        return 0.0
    girl = SEXES.index(sex)
    done = (bone_age_months - centre.fusing[girl]) / (centre.fused[girl] - centre.fusing[girl])
    return min(1.0, max(0.0, done))


def length_fraction(bone_age_months: float, sex: str) -> float:
    """Bone length as a fraction of a grown man's."""
    return float(np.interp(bone_age_months, GROWTH_MONTHS, GROWTH[sex]))


def state(centre: Centre, bone_age_months: float, sex: str, rng: np.random.Generator) -> tuple[float, float]:
    """(extent, fusion) of one centre, with its own small lead or lag (sd 2.5 months), as in nature."""
    age = bone_age_months + float(rng.normal(0.0, LAG_SD_MONTHS))
    return extent(centre, age, sex), fusion(centre, age, sex)


def check(bone_age_months: float, sex: str) -> None:
    """Raise UsageError for a sex that is not M or F, or a bone age outside AGE_RANGE_MONTHS."""
    if sex not in SEXES:
        raise UsageError(f"the phantom knows the sexes M and F, not {sex!r}")
    low, high = AGE_RANGE_MONTHS
    if not low <= bone_age_months <= high:
        raise UsageError(
            f"the phantom draws bone ages of {low:g} to {high:g} months, not {bone_age_months:g}"
        )
