"""A child's knee seen from the front (AP): outlines in millimetres, and the film of them.

Frame: origin in the middle of the joint space, x to the outer (fibular) side, y to the thigh. Figures are
those of a grown man (width of the condyles 84 mm); everything is multiplied by ``maturity.length_fraction``
and by the size of the individual. A growth plate is a gap between epiphysis and shaft that is bridged from
its middle outwards, as in the hand. How a film is made of outlines is told in ``phantom.hand``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.datasets.phantom import maturity
from engine.datasets.phantom.bones import Bone, Points, Tissue, capsule, circle, rounded, smooth
from engine.datasets.phantom.hand import FULL_SCALE, Film, Pose, develop, draw_bones, draw_tissue
from engine.errors import UsageError

SIDES = ("L", "R")
_FIELD_MM = 150.0
"""Height of a grown man's film, about."""
_FAR_MM = 260.0

_EPIPHYSES: dict[str, tuple[tuple[float, float], ...]] = {
    "femur": (
        (-41, 16), (-42, 9), (-37, 3.5), (-25, 2.2), (-13, 4), (-5, 11), (5, 11), (12, 4), (25, 2.5),
        (37, 4.5), (41, 10), (40, 17), (30, 23), (12, 21.5), (0, 24), (-12, 21.5), (-30, 23),
    ),
    "tibia": (
        (-38, -6), (-37, -12), (-30, -17), (-10, -18.5), (10, -18.5), (30, -17), (37, -12), (38, -6),
        (28, -3.5), (12, -4), (7, -2), (4, 3), (1, -2), (-3, 3.5), (-7, -2), (-14, -4), (-28, -3.5),
    ),
    "fibula": ((27, -16), (31, -12.5), (36, -13), (41, -16.5), (40, -21.5), (34, -22.5), (28, -21)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shaft:
    """Half-widths in mm at distances in mm from the growth plate; ``plate`` is its (x, y), ``up`` 1 or -1."""

    plate: tuple[float, float]
    up: int
    distances: tuple[float, ...]
    halves: tuple[float, ...]


_SHAFTS = {
    "femur": _Shaft((0, 25), 1, (0, 8, 20, 40, 70, 110, 260), (39, 37, 29, 20, 15.5, 14.5, 14.5)),
    "tibia": _Shaft((0, -19.5), -1, (0, 8, 20, 40, 70, 110, 260), (35.5, 33, 26, 18.5, 14.5, 12.5, 12)),
    "fibula": _Shaft((33, -23.5), -1, (0, 10, 30, 60, 260), (8.5, 7.5, 6, 5.5, 5.5)),
}


@dataclass(frozen=True, slots=True)
class Knee:
    """A whole knee; ``field_mm`` is the height of a film that shows it with a bit of either shaft."""

    bones: tuple[Bone, ...]
    tissue: Tissue
    field_mm: float


def expose_knee(bone_age_months: float, sex: str, side: str, rng: np.random.Generator, size: int) -> Film:
    """A film of ``size`` rows, 0.75 to 1 times as many columns; the same ``rng`` gives the same pixels.

    On a left knee (``side`` "L") the fibula is at the right of the picture, as on a film seen from the front.

    Raises:
        UsageError: sex is not M or F, side not L or R, or the age lies outside 12..216 months.
    """
    if side not in SIDES:
        raise UsageError(f"a knee phantom is left (L) or right (R), not {side!r}")
    knee = build_knee(bone_age_months, sex, rng)
    pose = _pose(knee, side, rng, size)
    film_HW = develop(draw_tissue(knee.tissue, pose), draw_bones(knee.bones, pose), pose, rng, side)
    return Film(np.rint(film_HW * FULL_SCALE).astype(np.uint16), 1.0 / pose.pixels_per_mm)


def build_knee(bone_age_months: float, sex: str, rng: np.random.Generator) -> Knee:
    """One individual's knee of this bone age; ``rng`` gives size, build, and each centre's small lead or lag.

    Raises:
        UsageError: see ``maturity.check``.
    """
    maturity.check(bone_age_months, sex)
    scale = maturity.length_fraction(bone_age_months, sex) * float(rng.normal(1.0, 0.04))
    wide = scale * float(rng.normal(1.0, 0.04))
    states = {
        name: maturity.state(centre, bone_age_months, sex, rng) for name, centre in maturity.KNEE.items()
    }
    bones = [_long_bone(name, states[name], scale, wide) for name in ("femur", "tibia", "fibula")]
    for name, middle, radii in (("patella", (1, 20), (21, 22)), ("tubercle", (5, -33), (7, 10))):
        size, fused = states[name]
        if size > 0:
            outline = (np.array(middle) + np.array(radii) * size * circle(24)) * (wide, scale)
            grey = 0.22 * (1 - 0.8 * fused)
            bones.append(Bone(name, (outline,), None, 0.9 * scale, 8 * scale * size, grey, grey))
    return Knee(tuple(bones), _tissue(scale, wide), _FIELD_MM * scale)


def plate_gap_mm(size: float, fused: float, scale: float) -> float:
    """Height of a growth plate: wider in the young, gone when fused."""
    return (2.0 * scale + 0.5 + 1.5 * (1 - size)) * (1 - fused)


def _long_bone(name: str, state: tuple[float, float], scale: float, wide: float) -> Bone:
    """Shaft, epiphysis, and the bridge between them."""
    size, fused = state
    shaft, grown = _SHAFTS[name], np.array([wide, scale])
    gap = plate_gap_mm(size, fused, scale)
    plate_mm = np.array(shaft.plate) * grown
    parts = [_shaft(shaft, plate_mm + (0, shaft.up * gap), wide, scale)]
    if size > 0:
        parts.append(_epiphysis(np.array(_EPIPHYSES[name]), size) * grown)
    if fused > 0:
        half, overlap = 0.94 * shaft.halves[0] * wide * fused, 3.0 * scale
        sides = np.array([half, half, -half, -half])
        heights = shaft.up * np.array([-overlap, gap + overlap, gap + overlap, -overlap])
        parts.append(plate_mm + np.stack([sides, heights], axis=1))
    return Bone(name, tuple(parts), None, 1.6 * scale + 0.4, 0.45 * shaft.halves[0] * wide, 0.85, 0.95)


def _shaft(shaft: _Shaft, start_mm: Points, wide: float, scale: float) -> Points:
    """From the growth plate at ``start_mm`` away from the joint and out of the picture, [N, 2] mm."""
    distances = _FAR_MM * np.linspace(0.0, 1.0, 40) ** 2
    halves = np.interp(distances, shaft.distances, shaft.halves) * wide
    halves = halves * np.maximum(rounded(distances, 5.0), 0.75)
    down = shaft.up * distances * scale
    edge = np.stack([np.concatenate([halves, -halves[::-1]]), np.concatenate([down, down[::-1]])], axis=1)
    placed: Points = start_mm + edge
    return placed


def _epiphysis(corners: Points, size: float) -> Points:
    """An epiphysis of this extent: a grain in its middle, of its grown shape in the end; [N, 2] grown mm."""
    middle = (corners.max(axis=0) + corners.min(axis=0)) / 2
    half = (corners.max(axis=0) - corners.min(axis=0)) / 2
    grown = smooth(corners - middle) / half
    turn = np.arctan2(grown[:, 1], grown[:, 0])
    grain = 0.9 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    shape = min(1.0, size * 1.15) ** 1.5
    mixed: Points = shape * grown + (1 - shape) * grain
    placed: Points = middle + half * mixed * (size, size**0.6)
    return placed


def _tissue(scale: float, wide: float) -> Tissue:
    """Thigh and calf; small children are plump."""
    plump = 6.0
    joint, up, down = np.zeros(2), np.array([0.0, 300.0]) * scale, np.array([2.0, -300.0]) * scale
    thigh = capsule(up, joint, 78 * wide + plump, 58 * wide + plump)
    calf = capsule(joint, down, 56 * wide + plump, 44 * wide + plump)
    return Tissue((thigh, calf), depth_mm=38.0 * scale)


def _pose(knee: Knee, side: str, rng: np.random.Generator, size: int) -> Pose:
    columns = 2 * round(size * float(rng.uniform(0.75, 1.0)) / 2)
    pixels_per_mm = size * float(rng.uniform(0.85, 1.15)) / knee.field_mm
    turn = math.radians(float(rng.normal(0.0, 5.0)))
    cosine, sine = math.cos(turn) * pixels_per_mm, math.sin(turn) * pixels_per_mm
    outwards = 1.0 if side == "L" else -1.0
    shift = rng.uniform(-0.06, 0.06, 2)
    return Pose(
        rows=size,
        columns=columns,
        pixels_per_mm=pixels_per_mm,
        matrix_22=np.array([[cosine * outwards, sine], [sine * outwards, -cosine]]),
        centre_mm=np.zeros(2),
        centre_px=np.array([columns, size]) * (0.5 + shift),
    )
