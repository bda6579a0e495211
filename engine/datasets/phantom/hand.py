"""Draws a hand phantom as a radiograph: outlines -> path lengths of X-rays -> film.

    bones and tissue in mm  ->  pixels (pose, zoom)  ->  sum of what each piece absorbs  ->  exposure, noise,
    collimation, lead letter  ->  12-bit stored values, bright = dense (MONOCHROME2)

A piece is filled anti-aliased, then shaded by the distance to its own edge: a dense rim as thick as its
cortex, and an inside that swells like the chord of a rounded body. Overlapping pieces add, as on film.

The zoom of a film hardly depends on age: the size of the hand in the picture does not give the age away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.datasets.phantom.bones import Bone, Hand, Points, Tissue, build_hand, carpal_corners
from engine.imaging.boxes import Box

FULL_SCALE = 4095
_BORDERED_SHARE, _BRIGHT_SHARE, _UNMARKED_SHARE = 0.75, 0.3, 0.1
_HALF_COVERED = 127  # of an anti-aliased mask
_SHIFT = 4  # fractional bits of the coordinates given to OpenCV

_LETTERS = {
    "L": ((-0.3, -0.5), (-0.1, -0.5), (-0.1, 0.3), (0.3, 0.3), (0.3, 0.5), (-0.3, 0.5)),
    "R": (
        (-0.3, -0.5), (0.2, -0.5), (0.3, -0.3), (0.2, 0.0), (0.05, 0.05), (0.3, 0.5),
        (0.1, 0.5), (-0.1, 0.1), (-0.1, 0.5), (-0.3, 0.5),
    ),
}  # fmt: skip
"""Outlines of lead letters, y down, of height 1."""

Plane = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Film:
    """One radiograph: ``stored_HW`` uint16 in 0..4095, and the side of a pixel at the detector in mm."""

    stored_HW: NDArray[np.uint16]
    spacing_mm: float


@dataclass(frozen=True, slots=True)
class Pose:
    """From hand coordinates (mm, y up) to the pixels of a grid of ``rows`` x ``columns``."""

    rows: int
    columns: int
    pixels_per_mm: float
    matrix_22: Points
    centre_mm: Points
    centre_px: Points

    def place(self, points_N2: Points) -> Points:
        """Points [N, 2] in mm to (x, y) in pixels."""
        placed: Points = (points_N2 - self.centre_mm) @ self.matrix_22.T + self.centre_px
        return placed


def draw_hand(bone_age_months: float, sex: str, rng: np.random.Generator, size: int) -> NDArray[np.uint16]:
    """Stored values [rows, columns] of one hand, 0..4095; the same ``rng`` state gives the same pixels.

    ``size`` is the number of rows; films are portrait, with 0.8 to 1 times as many columns.

    Raises:
        UsageError: sex is not M or F, or the age lies outside 12..216 months.
    """
    return expose(bone_age_months, sex, rng, size).stored_HW


def expose(bone_age_months: float, sex: str, rng: np.random.Generator, size: int) -> Film:
    """As ``draw_hand``, with the pixel spacing."""
    hand = build_hand(bone_age_months, sex, rng)
    pose = _pose(hand, rng, size)
    flesh_HW = draw_tissue(hand.tissue, pose)
    bone_HW = draw_bones(hand.bones, pose)
    film_HW = develop(flesh_HW, bone_HW, pose, rng)
    return Film(np.rint(film_HW * FULL_SCALE).astype(np.uint16), 1.0 / pose.pixels_per_mm)


def carpal_box(bone_age_months: float, sex: str, rng: np.random.Generator, size: int) -> Box:
    """Where the carpals lie in the picture that ``expose`` draws from the same state of ``rng``, in pixels.

    It holds all eight as they will be when grown: the region where they are looked for at any age.

    Raises:
        UsageError: as ``draw_hand``.
    """
    hand = build_hand(bone_age_months, sex, rng)
    placed = _pose(hand, rng, size).place(carpal_corners(hand))
    (left, top), (right, bottom) = placed.min(axis=0).tolist(), placed.max(axis=0).tolist()
    return Box(left=left, top=top, right=right, bottom=bottom)


def _pose(hand: Hand, rng: np.random.Generator, size: int) -> Pose:
    columns = 2 * round(size * float(rng.uniform(0.8, 1.0)) / 2)
    fill = float(rng.uniform(0.52, 0.70)) * (hand.reach_mm / 177) ** 0.1
    pixels_per_mm = size * fill / hand.reach_mm
    turn = math.radians(float(rng.uniform(-15, 15)))
    cosine, sine = math.cos(turn) * pixels_per_mm, math.sin(turn) * pixels_per_mm
    shift = rng.uniform(-0.03, 0.03, 2)
    return Pose(
        rows=size,
        columns=columns,
        pixels_per_mm=pixels_per_mm,
        matrix_22=np.array([[cosine, sine], [sine, -cosine]]),  # y runs down in an image
        centre_mm=np.array([0.05, 0.39]) * hand.reach_mm,
        centre_px=np.array([columns, size]) * (0.5 + shift),
    )


def draw_bones(bones: Iterable[Bone], pose: Pose) -> Plane:
    """What the bones absorb, [rows, columns]; 1 is a grown metacarpal's shaft."""
    total_HW = np.zeros((pose.rows, pose.columns), np.float32)
    for bone in bones:
        _add_bone(total_HW, bone, pose)
    return total_HW


def _add_bone(total_HW: Plane, bone: Bone, pose: Pose) -> None:
    outlines = [pose.place(part) for part in bone.parts]
    window = _window(outlines, pose)
    if window is None:
        return
    top, bottom, left, right = window
    mask_HW = np.zeros((bottom - top, right - left), np.uint8)
    for outline in outlines:
        _fill(mask_HW, outline - (left, top))
    distance_HW = _depth(mask_HW)
    cortex = max(1.3, bone.cortex_mm * pose.pixels_per_mm)
    depth = max(2.0, bone.depth_mm * pose.pixels_per_mm)
    rim_HW = np.exp(-(((distance_HW - 0.8 * cortex) / (0.8 * cortex)) ** 2))
    swell_HW = np.minimum(distance_HW / depth, 1.0)
    core_HW = np.sqrt(swell_HW * (2.0 - swell_HW))
    shade_HW = (0.5 * bone.rim * rim_HW + bone.core * core_HW) * mask_HW * np.float32(1 / 255)
    if bone.marrow is not None:
        shade_HW *= 1 - 0.38 * _hollow(pose.place(bone.marrow) - (left, top), mask_HW.shape)
    total_HW[top:bottom, left:right] += shade_HW


def _hollow(outline_N2: Points, shape_HW: tuple[int, ...]) -> Plane:
    """How hollow a shaft is, 0..1: its marrow, deepest in the middle."""
    marrow_HW = np.zeros(shape_HW, np.uint8)
    _fill(marrow_HW, outline_N2)
    depth_HW = _depth(marrow_HW)
    hollow_HW: Plane = depth_HW / max(1.0, float(depth_HW.max()))
    return np.sqrt(hollow_HW)


def _window(outlines: list[Points], pose: Pose) -> tuple[int, int, int, int] | None:
    """Rows and columns that hold the outlines, cut at the edge of the grid; None if all lie outside."""
    every = np.concatenate(outlines)
    left, top = np.floor(every.min(axis=0)).astype(int) - 2
    right, bottom = np.ceil(every.max(axis=0)).astype(int) + 3
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, pose.columns), min(bottom, pose.rows)
    return (int(top), int(bottom), int(left), int(right)) if right > left and bottom > top else None


def _fill(mask_HW: NDArray[np.uint8], outline_N2: Points) -> None:
    corners = np.rint(outline_N2 * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(mask_HW, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT)


def _depth(mask_HW: NDArray[np.uint8]) -> Plane:
    """Distance to the edge in pixels. The edge of the grid is no edge: a cut bone does not close there."""
    inside_HW = (mask_HW > _HALF_COVERED).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(inside_HW, cv2.DIST_L2, 5), np.float32)


def draw_tissue(tissue: Tissue, pose: Pose) -> Plane:
    """What the soft tissue absorbs, at half resolution and scaled up; 1 is the middle of the palm."""
    half_HW = np.zeros((pose.rows // 2 + 1, pose.columns // 2 + 1), np.uint8)
    for part in tissue.parts:
        _fill(half_HW, pose.place(part) / 2)
    web = 2 * int(tissue.depth_mm * pose.pixels_per_mm * 0.10) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (web, web))
    closed_HW = np.asarray(cv2.morphologyEx(half_HW, cv2.MORPH_CLOSE, disc), np.uint8)
    depth = max(2.0, tissue.depth_mm * pose.pixels_per_mm / 2)
    swell_HW = np.minimum(_depth(closed_HW) / (1.6 * depth), 1.0)
    thick_HW = np.sqrt(swell_HW * (2.0 - swell_HW))
    return _enlarged(np.asarray(cv2.GaussianBlur(thick_HW, (0, 0), 1.0), np.float32), pose)


def _enlarged(coarse_HW: Plane, pose: Pose) -> Plane:
    grid = (pose.columns, pose.rows)
    return np.asarray(cv2.resize(coarse_HW, grid, interpolation=cv2.INTER_LINEAR), np.float32)


def develop(flesh_HW: Plane, bone_HW: Plane, pose: Pose, rng: np.random.Generator, side: str = "L") -> Plane:
    """Film values 0..1: exposure, tone, blur, noise, collimation and the lead letter."""
    grain_HW = _grain(pose, rng)
    absorbed_HW = float(rng.uniform(0.26, 0.38)) * flesh_HW + 0.40 * bone_HW * (1 + 0.10 * grain_HW)
    letter_HW = _lead_letter(flesh_HW, pose, rng, side)
    blur = pose.rows / 512 * float(rng.uniform(0.6, 1.1))
    absorbed_HW = cv2.GaussianBlur(np.maximum(absorbed_HW, letter_HW), (0, 0), blur)
    gain, gamma, fog = rng.uniform(0.55, 1.05), rng.uniform(0.75, 1.25), rng.uniform(0.02, 0.16)
    tone_HW = np.power(np.minimum(absorbed_HW, 1.6), np.float32(gamma))
    film_HW = (fog + gain * tone_HW) * _heel(pose, rng)
    film_HW = film_HW / (1 + 0.35 * np.maximum(film_HW - 0.6, 0))  # shoulder: dense bone keeps its detail
    noise_HW = rng.standard_normal(film_HW.shape, dtype=np.float32)
    film_HW += float(rng.uniform(0.006, 0.022)) * (0.6 + 0.6 * film_HW) * noise_HW
    film_HW = _collimate(film_HW, pose, rng)
    clipped_HW: Plane = np.clip(film_HW, 0.0, 1.0)
    return clipped_HW


def _grain(pose: Pose, rng: np.random.Generator) -> Plane:
    """Trabecular texture: blotches of about 2 mm, sd about 1."""
    coarse = max(1.0, 0.9 * pose.pixels_per_mm)
    shape = (int(pose.rows / coarse) + 1, int(pose.columns / coarse) + 1)
    return _enlarged(rng.standard_normal(shape, dtype=np.float32), pose)


def _heel(pose: Pose, rng: np.random.Generator) -> Plane:
    """Uneven exposure across the plate, as a slope of up to 10 %."""
    slope_y, slope_x = rng.uniform(-0.1, 0.1, 2)
    down = np.linspace(-0.5, 0.5, pose.rows, dtype=np.float32)[:, None]
    across = np.linspace(-0.5, 0.5, pose.columns, dtype=np.float32)[None]
    heel_HW: Plane = 1 + np.float32(slope_y) * down + np.float32(slope_x) * across
    return heel_HW


def _collimate(film_HW: Plane, pose: Pose, rng: np.random.Generator) -> Plane:
    """Three films in four have a border, dark (electronic shutter) or bright (unexposed plate)."""
    bordered, bright = rng.random() < _BORDERED_SHARE, rng.random() < _BRIGHT_SHARE
    inset = rng.uniform(0.0, 0.05, 4)
    turn = math.radians(float(rng.uniform(-2.5, 2.5)))
    level = np.float32(rng.uniform(0.85, 1.0) if bright else rng.uniform(0.0, 0.03))
    if not bordered:
        return film_HW
    top, bottom, left, right = inset * (1, -1, 1, -1) + (0, 1, 0, 1)
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)]) - 0.5
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    open_HW = np.zeros(film_HW.shape, np.uint8)
    _fill(open_HW, (corners * (pose.columns, pose.rows)) @ rotation.T + (pose.columns / 2, pose.rows / 2))
    share_HW = open_HW * np.float32(1 / 255)
    collimated_HW: Plane = film_HW * share_HW + level * (1 - share_HW)
    return collimated_HW


def _lead_letter(flesh_HW: Plane, pose: Pose, rng: np.random.Generator, side: str) -> Plane:
    """A lead L or R where the film is emptiest; one film in ten has none."""
    letter_HW = np.zeros_like(flesh_HW)
    spots = rng.permutation(np.array([(0.14, 0.14), (0.86, 0.14), (0.14, 0.86), (0.86, 0.86), (0.12, 0.4)]))
    high, turn = pose.rows * float(rng.uniform(0.045, 0.075)), math.radians(float(rng.uniform(-12, 12)))
    if rng.random() < _UNMARKED_SHARE:
        return letter_HW
    spots_px = spots * (pose.columns, pose.rows)
    reach = int(high)
    covered = [
        flesh_HW[max(0, int(y) - reach) : int(y) + reach, max(0, int(x) - reach) : int(x) + reach].mean()
        for x, y in spots_px
    ]
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shape = np.array(_LETTERS[side])
    mask_HW = np.zeros(flesh_HW.shape, np.uint8)
    _fill(mask_HW, shape * high @ rotation.T + spots_px[int(np.argmin(covered))])
    letter_HW += mask_HW * np.float32(1.3 / 255)
    return letter_HW
