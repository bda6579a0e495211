"""A child's head from the side, in the middle plane: outlines in millimetres, and the film of them.

Made for `sos-stage`: the spheno-occipital synchondrosis (SOS) is a gap that runs obliquely through the clivus
from the inside of the skull to the throat, and closes from the inside outwards. The film was drawn up before
any network saw it, and stays as it is:

- frame: origin in the sella turcica, x to the face, y to the vertex; 512 x 512 film, about 215 mm wide;
- the gap is 6 to 9 % of the width long and 1.6 to 2.6 mm wide; a part ``fused`` of it, from the inside on, is
  bone; stages 0 to 4 by ``fused`` below 0.05, 0.35, 0.65, 0.95, and above;
- the head lies up to 15 % of the width off the middle, turned by up to 20 degrees, zoomed by 0.8 to 1.25;
- three to six decoys: gaps of the same make, each with a fused part of its own, in vault, jaw, cervical spine
  and the base of the skull before the sella. What they show says nothing about the stage.

It is a drawing, no anatomy: nothing that is measured on it says anything about patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.phantom.bones import Bone, Points, Tissue, capsule, circle, smooth
from engine.datasets.phantom.hand import FULL_SCALE, Film, Plane, Pose, develop, draw_bones, draw_tissue
from engine.imaging.boxes import Box

STAGE_EDGES = (0.05, 0.35, 0.65, 0.95)
"""Fused parts at which the next stage begins."""
_FIELD_MM = 215.0
_PLACE, _TURN_DEG, _ZOOM = 0.15, 20.0, (0.8, 1.25)
_GAP_SHARE, _GAP_WIDE_MM = (0.06, 0.09), (1.6, 2.6)
_GAP_DEPTH = 0.85
"""Part of the bone's shade that a gap takes away."""
_RIM_MM = 0.9
_BOX_MARGIN = 0.35
"""Of the gap's length, around it: the reader's box."""
_DECOYS = (3, 6)

_CLIVUS = (np.array([-5.0, -2.0]), np.array([-27.0, -41.0]))
"""From the dorsum sellae to the basion, mm."""
_CLIVUS_HALF_MM = (9.0, 5.5)
_SOS_AT = (0.36, 0.5)
"""Where along the clivus the gap lies."""

_DECOY_PLACES = (
    # (x, y) of the middle in mm, direction of the gap in degrees, length in mm
    (42.0, 112.0, 70.0, 8.0),  # bregma
    (-76.0, 92.0, 150.0, 9.0),  # lambda
    (84.0, 48.0, 10.0, 9.0),  # forehead
    (-31.0, -72.0, 0.0, 15.0),  # dens and body of C2
    (-35.5, -108.0, 3.0, 16.0),  # C3
    (25.0, 3.0, 85.0, 9.0),  # between the sphenoid bone and the ethmoid
    (62.0, -92.0, 60.0, 17.0),  # chin
    (20.0, -84.0, 20.0, 16.0),  # angle of the jaw
)


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap through a bone, in mm: from ``start`` on its first ``fused`` part is bone."""

    start: Points
    end: Points
    wide_mm: float
    fused: float


@dataclass(frozen=True, slots=True)
class Head:
    """Bones, tissue and gaps; the first gap is the synchondrosis."""

    bones: tuple[Bone, ...]
    tissue: Tissue
    airway: Points
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class HeadFilm:
    """The film, and the region of the synchondrosis in its pixels."""

    film: Film
    box: Box


def stage_of(fused: float) -> int:
    """The stage, 0 to 4, of a fused part."""
    return sum(fused >= edge for edge in STAGE_EDGES)


def expose_head(fused: float, rng: np.random.Generator, size: int) -> HeadFilm:
    """A film of ``size`` x ``size``; the same ``rng`` gives the same pixels. ``fused`` is 0 to 1."""
    pixels_per_mm, pose = _pose(rng, size)
    head = build_head(fused, rng, gap_mm=size * float(rng.uniform(*_GAP_SHARE)) / pixels_per_mm)
    bone_HW = draw_bones(head.bones, pose)
    for gap in head.gaps:
        _open(bone_HW, gap, pose)
    flesh_HW = draw_tissue(head.tissue, pose) * (1 - 0.45 * _filled(head.airway, pose, blur_mm=1.5))
    film_HW = develop(flesh_HW, 0.8 * bone_HW, pose, rng)
    film = Film(np.rint(film_HW * FULL_SCALE).astype(np.uint16), 1.0 / pose.pixels_per_mm)
    return HeadFilm(film, _box(head.gaps[0], pose))


def build_head(fused: float, rng: np.random.Generator, *, gap_mm: float) -> Head:
    """One individual; ``rng`` gives size, shape, where the gap lies, and the decoys."""
    tall, deep = (float(rng.normal(1.0, 0.04)) for _ in range(2))
    grown = np.array([deep, tall])
    start, end = (point * grown for point in _CLIVUS)
    bones = [
        _band("vault", _arc((-2, 42), (88, 74), 8, 205) * grown, 5.0, 0.75),
        _band("occiput", _arc((-2, 42), (88, 74), 205, 250) * grown, 6.0, 0.8),
        _band("base", np.array([(84, 20), (60, 8), (38, 6), (14, 4), (7, 1)]) * grown, 4.0, 0.7),
        _band("sella", np.array([(9, 2), (6, -7), (-1, -8), (-5, 0)]) * grown, 3.0, 0.6),
        Bone("clivus", (capsule(start, end, *_CLIVUS_HALF_MM),), None, 1.5, 9.0, 0.7, 0.95),
        Bone("atlas", (circle(24) * (6, 5) + np.array([-14, -56]) * grown,), None, 1.5, 4.0, 0.6, 0.5),
        Bone("axis", (capsule(np.array((-29, -54)) * grown, np.array((-33, -81)) * grown, 6.0, 9.0),),
             None, 1.5, 7.0, 0.6, 0.7),
        Bone("third", (capsule(np.array((-35, -104)) * grown, np.array((-36, -112)) * grown, 9.0, 9.0),),
             None, 1.5, 7.0, 0.6, 0.7),
        Bone("upper-jaw", (smooth(np.array([(78, -8), (30, -14), (26, -34), (50, -44), (76, -40)]) * grown),),
             None, 2.0, 14.0, 0.5, 0.55),
        _band("lower-jaw", np.array([(2, -28), (8, -64), (18, -86), (46, -96), (72, -92), (78, -72)]) * grown,
              16.0, 0.7),
    ]  # fmt: skip
    gaps = [_synchondrosis(fused, (start, end), rng, gap_mm=gap_mm)]
    number = int(rng.integers(_DECOYS[0], _DECOYS[1] + 1))
    for place in rng.permutation(len(_DECOY_PLACES))[:number].tolist():
        x, y, degrees, length = _DECOY_PLACES[place]
        middle = np.array([x, y]) * grown
        turn = math.radians(degrees + float(rng.normal(0.0, 8.0)))
        half = length / 2 * float(rng.uniform(0.9, 1.2)) * np.array([math.cos(turn), math.sin(turn)])
        gaps.append(
            Gap(middle - half, middle + half, float(rng.uniform(*_GAP_WIDE_MM)), float(rng.uniform(0, 1)))
        )
    skull = smooth(_arc((-2, 42), (97, 83), 0, 359) * grown)
    face = smooth(
        np.array([(92, 40), (96, 6), (104, -18), (96, -60), (88, -108), (20, -104), (10, -20)]) * grown
    )
    neck = capsule(np.array([-30.0, -30.0]), np.array([-38.0, -230.0]), 48.0, 52.0)
    throat = smooth(
        np.array([(16, -22), (2, -40), (-6, -62), (-12, -100), (-4, -102), (8, -62), (14, -40)]) * grown
    )
    return Head(tuple(bones), Tissue((skull, face, neck), depth_mm=60.0), throat, tuple(gaps))


def _synchondrosis(
    fused: float, clivus: tuple[Points, Points], rng: np.random.Generator, *, gap_mm: float
) -> Gap:
    """An oblique gap through the clivus, from its upper (inner) surface to the lower one."""
    start, end = clivus
    middle = start + float(rng.uniform(*_SOS_AT)) * (end - start)
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])  # to the throat
    slant = math.radians(float(rng.uniform(20.0, 40.0)))
    direction = math.cos(slant) * across + math.sin(slant) * along
    half = gap_mm / 2 * direction
    return Gap(middle - half, middle + half, float(rng.uniform(*_GAP_WIDE_MM)), fused)


def _open(bone_HW: Plane, gap: Gap, pose: Pose) -> None:
    """Takes the open part of a gap out of the bone, and lines it with a dense rim."""
    start = gap.start + gap.fused * (gap.end - gap.start)
    length = float(np.linalg.norm(gap.end - start))
    if length <= 0:
        return
    rim_HW = _filled(_quad(start, gap.end, gap.wide_mm + 2 * _RIM_MM), pose, blur_mm=0.3)
    open_HW = _filled(_quad(start, gap.end, gap.wide_mm), pose, blur_mm=0.2)
    bone_HW *= (1 + 0.25 * rim_HW * (1 - open_HW)) * (1 - _GAP_DEPTH * open_HW)


def _quad(start: Points, end: Points, wide_mm: float) -> Points:
    along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
    half: Points = wide_mm / 2 * np.array([-along[1], along[0]])
    return np.stack([start + half, end + half, end - half, start - half])


def _filled(outline_N2: Points, pose: Pose, *, blur_mm: float) -> Plane:
    """0..1 [rows, columns], anti-aliased."""
    mask_HW = np.zeros((pose.rows, pose.columns), np.uint8)
    corners = np.rint(pose.place(outline_N2) * 16).astype(np.int32)
    cv2.fillPoly(mask_HW, [corners], 255, lineType=cv2.LINE_AA, shift=4)
    soft_HW = cv2.GaussianBlur(mask_HW.astype(np.float32) / 255, (0, 0), blur_mm * pose.pixels_per_mm)
    return np.asarray(soft_HW, np.float32)


def _box(gap: Gap, pose: Pose) -> Box:
    """The region of a gap, fused or not, with a margin; in pixels, cut at the edge of the film."""
    ends_22 = pose.place(np.stack([gap.start, gap.end]))
    margin = _BOX_MARGIN * float(np.linalg.norm(ends_22[1] - ends_22[0]))
    half = (ends_22.max(axis=0) - ends_22.min(axis=0)).max() / 2 + margin
    middle = ends_22.mean(axis=0)
    (left, top), (right, bottom) = (middle - half).tolist(), (middle + half).tolist()
    return Box(left=left, top=top, right=right, bottom=bottom)


def _arc(centre: tuple[float, float], radii: tuple[float, float], first: float, last: float) -> Points:
    """Points [N, 2] on an ellipse between two angles in degrees."""
    turn = np.radians(np.linspace(first, last, 40))
    arc: Points = np.array(centre) + np.array(radii) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return arc


def _band(name: str, line_N2: NDArray[np.float64], wide_mm: float, shade: float) -> Bone:
    """A plate of bone along a line."""
    ahead = np.gradient(line_N2, axis=0)
    across = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.linalg.norm(ahead, axis=1, keepdims=True)
    outline = np.concatenate([line_N2 + wide_mm / 2 * across, (line_N2 - wide_mm / 2 * across)[::-1]])
    return Bone(name, (outline,), None, 1.2, wide_mm / 2, shade, shade)


def _pose(rng: np.random.Generator, size: int) -> tuple[float, Pose]:
    pixels_per_mm = size / _FIELD_MM * float(rng.uniform(*_ZOOM))
    turn = math.radians(float(rng.uniform(-_TURN_DEG, _TURN_DEG)))
    cosine, sine = math.cos(turn) * pixels_per_mm, math.sin(turn) * pixels_per_mm
    shift = rng.uniform(-_PLACE, _PLACE, 2)
    pose = Pose(
        rows=size,
        columns=size,
        pixels_per_mm=pixels_per_mm,
        matrix_22=np.array([[cosine, sine], [sine, -cosine]]),
        centre_mm=np.array([-8.0, -4.0]),
        centre_px=np.array([size, size]) * (0.5 + shift),
    )
    return pixels_per_mm, pose
