"""Outlines of a left hand seen from the back (PA), in millimetres: skeleton and soft tissue.

Frame: origin in the middle of the wrist, x to the thumb, y to the finger tips. Figures are those of a grown
man, with lengths as in hand anthropometry (third ray 65, 45, 27, 18 mm); everything is multiplied by
``maturity.length_fraction`` and by the size of the individual.

A long bone is a shaft, an epiphysis at one end, and between them the growth plate, which is a gap until it is
bridged from its middle outwards. All parts of one bone are outlines whose union is one piece of bone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.phantom import maturity
from engine.datasets.phantom.maturity import Centre

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bone:
    """One bone: the union of ``parts``, each [N, 2] points in mm, less the hollow of its shaft.

    ``cortex_mm`` is the thickness of its dense rim, ``rim`` and ``core`` how bright rim and inside are (1 is
    the shaft of a grown metacarpal); ``depth_mm`` is the distance from the rim over which it swells to full
    thickness.
    """

    name: str
    parts: tuple[Points, ...]
    marrow: Points | None
    cortex_mm: float
    depth_mm: float
    rim: float
    core: float


@dataclass(frozen=True, slots=True)
class Tissue:
    """Soft tissue: the union of ``parts``, each [N, 2] points in mm; ``depth_mm`` as of a bone."""

    parts: tuple[Points, ...]
    depth_mm: float


@dataclass(frozen=True, slots=True)
class Hand:
    """A whole hand; ``reach_mm`` is the distance from the wrist to the tip of the middle finger."""

    bones: tuple[Bone, ...]
    tissue: Tissue
    reach_mm: float


@dataclass(frozen=True, slots=True)
class _Ray:
    """A finger with its metacarpal: base of the metacarpal, then one entry per bone from the wrist out."""

    base: tuple[float, float]
    angles: tuple[float, ...]
    """Degrees from the long axis of the hand, positive to the thumb."""
    lengths: tuple[float, ...]
    half_widths: tuple[float, ...]


_RAYS = (
    _Ray((29.0, 17.5), (40, 30, 24), (45, 32, 22), (7.4, 7.4, 6.4)),
    _Ray((12.5, 22.5), (10, 11, 10, 8), (67, 40, 23, 17), (7.6, 7.6, 6.3, 5.1)),
    _Ray((0.5, 22.0), (2, 1, 1, 0), (65, 45, 27, 18), (7.6, 7.9, 6.5, 5.3)),
    _Ray((-9.8, 20.5), (-6, -9, -9, -7), (58, 41, 26, 18), (6.9, 7.3, 6.1, 5.1)),
    _Ray((-18.8, 17.0), (-16, -20, -18, -15), (53, 33, 19, 16), (6.6, 6.5, 5.3, 4.6)),
)
_GROWN_REACH_MM = 22 + sum(_RAYS[2].lengths) + 4
_KINDS = ("metacarpal", "proximal", "middle", "distal")
_THUMB_KINDS = ("metacarpal-1", "proximal", "distal")

# Half-width along the bone, from its epiphysis on, as a fraction of its widest half-width.
_ALONG = np.array([0.0, 0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0])
_PROFILES = {
    "metacarpal": np.array([0.92, 0.98, 0.86, 0.58, 0.45, 0.45, 0.56, 0.74, 0.84]),
    "metacarpal-1": np.array([0.98, 1.0, 0.80, 0.64, 0.58, 0.60, 0.72, 0.86, 0.84]),
    "proximal": np.array([0.97, 1.0, 0.80, 0.66, 0.60, 0.57, 0.60, 0.70, 0.66]),
    "middle": np.array([0.97, 1.0, 0.78, 0.62, 0.54, 0.52, 0.60, 0.74, 0.68]),
    "distal": np.array([0.97, 1.0, 0.72, 0.48, 0.38, 0.38, 0.52, 0.62, 0.56]),
    "radius": np.array([1.0, 0.93, 0.60, 0.48, 0.45, 0.45, 0.46, 0.46, 0.46]),
    "ulna": np.array([1.0, 0.92, 0.70, 0.63, 0.62, 0.63, 0.64, 0.66, 0.66]),
}

_CARPALS: dict[str, tuple[tuple[float, float], ...]] = {
    "capitate": (
        (-5.6, 18), (-6, 9), (-5, 2), (-1, -1.2), (3.6, 0), (5.8, 5), (5, 11), (6.4, 18), (0.4, 19.8),
    ),
    "hamate": ((-8, 18.2), (-7.8, 9), (-8.4, 2.6), (-12, 2.6), (-18, 8), (-21.6, 13.6), (-15, 18.6)),
    "triquetrum": ((-22.4, -2), (-20.5, -8.6), (-14.4, -9.6), (-11.2, -5), (-11.6, 0), (-17, 4.6)),
    "lunate": ((-11.6, -8), (-9.6, -13), (-2.6, -14), (1.2, -10.5), (0.8, -5.4), (-3, -3.2), (-8.4, -3.4)),
    "scaphoid": ((3, -6), (5, -11.4), (12.4, -9.6), (18, -3.6), (20.4, 3.2), (16.6, 6), (11, 3.4), (6.6, -1)),
    "trapezium": ((18.6, 16.6), (18.2, 9.4), (22, 5.6), (28.4, 7.6), (31, 12.4), (25, 17.6)),
    "trapezoid": ((7.8, 17.4), (7.4, 10), (12, 7.2), (16.6, 10.2), (17, 16.6), (12, 20)),
    "pisiform": ((-23, -4), (-20.6, -8), (-17, -7), (-15.8, -3), (-18, 0.6), (-21.6, 0)),
}  # fmt: skip


def build_hand(bone_age_months: float, sex: str, rng: np.random.Generator) -> Hand:
    """One individual's hand of this bone age; ``rng`` gives size, build, spread of the fingers, small lags.

    Every centre is a little ahead of or behind the bone age of the hand (sd 2.5 months), as in nature.

    Raises:
        UsageError: see ``maturity.check``.
    """
    maturity.check(bone_age_months, sex)
    scale = maturity.length_fraction(bone_age_months, sex) * float(rng.normal(1.0, 0.04))
    width = float(rng.normal(1.0, 0.04)) * (1.0 + 0.25 * (1.0 - scale))
    build = _Build(bone_age_months, sex, scale, width, spread=float(rng.uniform(0.7, 1.6)), rng=rng)
    bones: list[Bone] = []
    flesh: list[Points] = []
    for number, ray in enumerate(_RAYS):
        ray_bones, ray_flesh = _ray(number, ray, build)
        bones += ray_bones
        flesh += ray_flesh
    bones += _carpals(build)
    bones += _forearm(build)
    flesh += _palm(build)
    reach = _GROWN_REACH_MM * scale
    return Hand(tuple(bones), Tissue(tuple(flesh), depth_mm=9.0 * scale + 1.5), reach)


def carpal_corners(hand: Hand) -> Points:
    """Corners [N, 2] in mm of the eight carpals as they will be when grown, bone yet or not."""
    grown = np.concatenate([np.array(corners) for corners in _CARPALS.values()])
    corners: Points = grown * (hand.reach_mm / _GROWN_REACH_MM)
    return corners


@dataclass(frozen=True, slots=True)
class _Build:
    bone_age_months: float
    sex: str
    scale: float
    width: float
    spread: float
    rng: np.random.Generator

    def state(self, centre: Centre) -> tuple[float, float]:
        return maturity.state(centre, self.bone_age_months, self.sex, self.rng)


def _ray(number: int, ray: _Ray, build: _Build) -> tuple[list[Bone], list[Points]]:
    """Bones of one finger, and its soft tissue from the middle of the metacarpal on."""
    scale = build.scale
    kinds = _THUMB_KINDS if number == 0 else _KINDS
    joint = np.array(ray.base) * scale
    bend = build.rng.normal(0.0, 2.0, len(kinds))
    bones: list[Bone] = []
    flesh: list[Points] = []
    for order, kind in enumerate(kinds):
        spread = 1.0 if order == 0 or number == 0 else build.spread
        angle = math.radians(ray.angles[order] * spread + bend[order] * (0.4 if order == 0 else 1.0))
        axis = np.array([math.sin(angle), math.cos(angle)])
        length, half = ray.lengths[order] * scale, ray.half_widths[order] * scale * build.width
        head_first = kind == "metacarpal"
        start, along = (joint + axis * length, -axis) if head_first else (joint, axis)
        deep = (0.17 if kind == "metacarpal" else 0.105) * length + 1.0 * scale
        bones.append(_long_bone(kind, _Frame(start, along, length, half, deep), build))
        tip = joint + axis * length
        if order > 0:
            last = order == len(kinds) - 1
            flesh.append(
                capsule(joint, tip + axis * (1.5 * scale if last else 0), *_girth(half, scale, last=last))
            )
        if number == 0 and order == 0:
            flesh.append(capsule(joint, tip, 13 * scale + 1, 11 * scale + 1))
            bones += _sesamoid(tip, axis, build)
        joint = tip
    return bones, flesh


def _girth(half: float, scale: float, *, last: bool) -> tuple[float, float]:
    """Half-widths in mm of a finger at both ends of one of its bones; small children have plump fingers."""
    fat = 2.2 * scale + 1.2
    return half + fat, half * (0.8 if last else 0.86) + fat


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a long bone lies: ``start`` is its epiphyseal end, ``along`` the unit vector away from it."""

    start: Points
    along: Points
    length: float
    half: float
    deep: float
    """Height of the epiphysis with its cartilage: the shaft begins here, after the growth plate."""

    def place(self, distances: Points, sides: Points) -> Points:
        """Points at ``distances`` along the bone and ``sides`` across it, as [N, 2]."""
        across = np.array([self.along[1], -self.along[0]])
        placed: Points = self.start + distances[:, None] * self.along + sides[:, None] * across
        return placed


def _long_bone(kind: str, frame: _Frame, build: _Build) -> Bone:
    """Shaft, epiphysis and bridge of one long bone."""
    size, fused = build.state(maturity.EPIPHYSES[kind])
    length, half, deep = frame.length, frame.half, frame.deep
    joint = (0.9 + 0.035 * length * (1 - size)) * math.sqrt(build.scale)  # cartilage at the far end
    gap = (1.5 * build.scale + 0.3 + 1.3 * (1 - size)) * (1 - fused)
    parts = [_shaft(kind, frame, deep + gap, length - joint)]
    if size > 0:
        parts.append(_epiphysis(kind, frame, size, deep + gap))
    if fused > 0:
        wide = 0.94 * half * fused * _profile(kind, 0.12)
        parts.append(_box(frame, deep - 0.2 * deep, deep + gap + 1.2 * build.scale, wide))
    marrow = _marrow(kind, frame, deep + gap, length - joint)
    return Bone(kind, tuple(parts), marrow, 0.9 * build.scale + 0.35, 0.5 * half, 1.0, 0.8)


def _profile(kind: str, share: float) -> float:
    return float(np.interp(share, _ALONG, _PROFILES[kind]))


def _shaft(kind: str, frame: _Frame, begin: float, end: float) -> Points:
    """The shaft from ``begin`` (growth plate) to ``end`` (far joint), mm along the bone."""
    turn = np.linspace(0.0, math.pi, 22)
    distances = begin + (end - begin) * (1 - np.cos(turn)) / 2
    sides = frame.half * np.interp(distances / frame.length, _ALONG, _PROFILES[kind])
    sides *= rounded(distances - begin, 0.28 * frame.half) * rounded(end - distances, 0.55 * frame.half)
    return frame.place(np.concatenate([distances, distances[::-1]]), np.concatenate([sides, -sides[::-1]]))


def _marrow(kind: str, frame: _Frame, begin: float, end: float) -> Points:
    """The hollow of the shaft, a spindle in its middle."""
    turn = np.linspace(0.0, math.pi, 14)
    distances = begin + (end - begin) * (0.5 - 0.40 * np.cos(turn))
    widths = np.interp(distances / frame.length, _ALONG, _PROFILES[kind])
    sides = 0.62 * frame.half * widths * np.sin(turn) ** 0.7
    return frame.place(np.concatenate([distances, distances[::-1]]), np.concatenate([sides, -sides[::-1]]))


def _epiphysis(kind: str, frame: _Frame, size: float, shaft: float) -> Points:
    """A disc before the shaft, which begins at ``shaft`` mm: a grain in cartilage that widens to a cap."""
    deep = frame.deep
    high = deep * (0.38 + 0.60 * size)
    wide = frame.half * _profile(kind, shaft / frame.length) * min(1.04, 0.12 + 1.0 * size)
    middle = deep - high / 2 - 0.06 * deep * (1 - size)
    turn = np.linspace(0.0, 2 * math.pi, 24, endpoint=False)
    square = 0.5 + 0.32 * (1 - size)  # exponent of a superellipse: a grain is round, a cap has corners
    across = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** square
    upward = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (square + 0.2)
    wedge = 0.32 * across * (upward < 0) if kind == "radius" else 0.0  # the styloid, on the side of the thumb
    return frame.place(middle + (upward / 2 + wedge) * high, across * wide)


def _box(frame: _Frame, begin: float, end: float, half: float) -> Points:
    return frame.place(np.array([begin, end, end, begin]), np.array([half, half, -half, -half]))


def rounded(distance: Points, radius: float) -> Points:
    """Factor that rounds a corner: 0 at the end, 1 from ``radius`` on."""
    rounded: Points = np.sqrt(1 - (1 - np.clip(distance / radius, 0.0, 1.0)) ** 2)
    return rounded


def _sesamoid(joint: Points, axis: Points, build: _Build) -> list[Bone]:
    size, _ = build.state(maturity.SESAMOID)
    if size == 0:
        return []
    radius = 2.9 * build.scale * size
    centre = joint - axis * 1.5 * build.scale + np.array([-axis[1], axis[0]]) * 7.0 * build.scale
    return [Bone("sesamoid", (centre + radius * circle(14) * (1.0, 0.8),), None, 0.6, radius, 0.5, 0.5)]


def _carpals(build: _Build) -> list[Bone]:
    bones = []
    for name, centre in maturity.CARPALS.items():
        size, _ = build.state(centre)
        shift = build.rng.normal(0.0, 0.4, 2)
        if size == 0:
            continue
        corners = np.array(_CARPALS[name])
        middle = corners.mean(axis=0)
        outline = (middle + shift + _ossified(1.17 * (corners - middle), size)) * build.scale
        radius = 6.0 * build.scale * size
        rim, core = (0.35, 0.45) if name == "pisiform" else (0.85, 0.85)
        bones.append(Bone(name, (outline,), None, 0.7 * build.scale + 0.3, radius, rim, core))
    return bones


def _ossified(corners: Points, size: float) -> Points:
    """A carpal of this extent: round while small, of its grown shape in the end. Corners in, [48, 2] out."""
    grown = smooth(corners)
    turn = np.arctan2(grown[:, 1], grown[:, 0])
    radius = math.sqrt(float(np.mean(np.sum(grown**2, axis=1))))
    circle = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    shape = min(1.0, size * 1.15) ** 1.5
    ossified: Points = size * (shape * grown + (1 - shape) * circle)
    return ossified


def smooth(corners: Points, rounds: int = 3) -> Points:
    """Chaikin's corner cutting of a closed outline."""
    outline = corners
    for _ in range(rounds):
        after = np.roll(outline, -1, axis=0)
        outline = np.stack([0.8 * outline + 0.2 * after, 0.2 * outline + 0.8 * after], axis=1).reshape(-1, 2)
    return outline


def _forearm(build: _Build) -> list[Bone]:
    """Radius and ulna, running down out of the picture."""
    scale = build.scale
    down = np.array([0.0, -1.0])
    wide = scale * build.width
    radius = _Frame(np.array([9.5, -13.5]) * scale, _tilted(down, 2.0), 150 * scale, 15.0 * wide, 9.5 * scale)
    ulna = _Frame(np.array([-14.5, -17.0]) * scale, _tilted(down, -1.0), 147 * scale, 8.2 * wide, 8.0 * scale)
    return [_long_bone("radius", radius, build), _long_bone("ulna", ulna, build)]


def _tilted(vector: Points, degrees: float) -> Points:
    turn = math.radians(degrees)
    return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ vector


def _palm(build: _Build) -> list[Points]:
    """Palm, thumb web, wrist and forearm; the outline is rounded later, where all parts are united."""
    scale, plump = build.scale, 1.5
    palm = np.array(
        [(-29, 4), (-37, 40), (-41, 72), (-24, 84), (0, 97), (30, 92), (33, 62), (36, 26), (28, -2)]
    )
    web = np.array([(20, 8), (60, 52), (34, 64), (24, 70)])
    wrist = np.array(
        [(-29, 6), (31, 6), (29, -12), (28, -40), (30, -400), (-32, -400), (-29, -40), (-27, -12)]
    )
    return [part * scale + np.sign(part) * plump for part in (palm, web, wrist)]


def capsule(begin: Points, end: Points, begin_half: float, end_half: float) -> Points:
    """A piece of a limb: the convex hull of a disc at either end."""
    disc = circle(20)
    discs = np.concatenate([begin + begin_half * disc, end + end_half * disc]).astype(np.float32)
    return cv2.convexHull(discs)[:, 0].astype(np.float64)


def circle(corners: int) -> Points:
    """Points [corners, 2] of the unit circle."""
    turn = np.linspace(0.0, 2 * math.pi, corners, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)
