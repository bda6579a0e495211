"""The slices of a series in the order in which they lie in the patient, and what is wrong with them.

File names and instance numbers say nothing reliable: order is the position of a slice along the normal of its
plane (PS3.3 C.7.6.2.1.1). Positions are in mm in the patient's coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_POSITION, LOCALIZER, MIXED_ORIENTATION = "no_position", "localizer", "mixed_orientation"
DUPLICATE, GAP, UNEVEN_SPACING, GANTRY_TILT = "duplicate", "gap", "uneven_spacing", "gantry_tilt"

_SAME_PLACE_MM = 0.01
_SAME_DIRECTION = 0.01  # difference of direction cosines; about half a degree
_GAP, _UNEVEN = 1.5, 0.05  # of the usual step
_TILT_DEGREES = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One slice: ImagePositionPatient (mm), ImageOrientationPatient (cosines), whether it is a scout view."""

    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    is_localizer: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Something amiss: its code, the slices it is about as places in the input, and its size.

    A gap names the slices before and after it, its size is in mm, as that of uneven spacing (the largest
    departure from the usual step); gantry tilt is in degrees; the others have no size.
    """

    code: str
    slices: tuple[int, ...]
    size: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesOrder:
    """``order``: places in the input, along the normal; what is not a slice of the stack is left out.

    ``spacing_mm`` is the usual step between neighbours, None for fewer than two slices.
    """

    order: tuple[int, ...]
    spacing_mm: float | None
    findings: tuple[Finding, ...]

    @property
    def codes(self) -> frozenset[str]:
        """The codes of the findings."""
        return frozenset(finding.code for finding in self.findings)


def order_slices(slices: Sequence[Slice]) -> SeriesOrder:
    """Sort a series along its normal; of slices in one place the first given stays. Never raises."""
    localizers = [n for n, one in enumerate(slices) if one.is_localizer]
    normals = {n: _axes(one) for n, one in enumerate(slices) if not one.is_localizer}
    placed = {n: axes for n, axes in normals.items() if axes is not None}
    kept, others = _largest_group(placed)
    findings = [
        Finding(code, tuple(found))
        for code, found in (
            (LOCALIZER, localizers),
            (NO_POSITION, [n for n in normals if n not in placed]),
            (MIXED_ORIENTATION, others),
        )
        if found
    ]
    if not kept:
        return SeriesOrder((), None, tuple(findings))
    normal = placed[kept[0]][2]
    places = np.array([slices[n].position_mm for n in kept], np.float64)
    along = places @ normal
    ranked = [int(rank) for rank in np.argsort(along, kind="stable")]
    ranked, doubles = _without_doubles(ranked, along)
    findings += [Finding(DUPLICATE, tuple(kept[rank] for rank in doubles))] if doubles else []
    order = tuple(kept[rank] for rank in ranked)
    spacing_mm, more = _steps(places[ranked], normal, order)
    return SeriesOrder(order, spacing_mm, (*findings, *more))


def _axes(one: Slice) -> NDArray[np.float64] | None:
    """Row direction, column direction and normal [3, 3]; None where they are missing or no right angle."""
    if one.position_mm is None or one.orientation is None:
        return None
    axes = np.array(one.orientation, np.float64).reshape(2, 3)
    if not (np.isfinite(axes).all() and np.isfinite(one.position_mm).all()):
        return None
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1.0).max() > _SAME_DIRECTION or abs(axes[0] @ axes[1]) > _SAME_DIRECTION:
        return None
    normal = np.cross(axes[0], axes[1])
    return np.vstack((axes, normal / np.linalg.norm(normal)))


def _largest_group(placed: dict[int, NDArray[np.float64]]) -> tuple[list[int], list[int]]:
    """Slices of the orientation that most have, and the others."""
    groups: list[list[int]] = []
    for n, axes in placed.items():
        for group in groups:
            if np.abs(placed[group[0]] - axes).max() <= _SAME_DIRECTION:
                group.append(n)
                break
        else:
            groups.append([n])
    kept = max(groups, key=len, default=[])
    return kept, sorted(n for group in groups if group is not kept for n in group)


def _without_doubles(ranked: list[int], along: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    firsts: list[int] = []
    doubles: list[int] = []
    for rank in ranked:
        is_double = bool(firsts) and along[rank] - along[firsts[-1]] < _SAME_PLACE_MM
        if not is_double:
            firsts.append(rank)
            continue
        doubles.append(max(rank, firsts[-1]))
        firsts[-1] = min(rank, firsts[-1])
    return firsts, sorted(doubles)


def _steps(
    places_N3: NDArray[np.float64], normal: NDArray[np.float64], order: tuple[int, ...]
) -> tuple[float | None, list[Finding]]:
    """Usual step in mm, and what the steps between neighbours tell."""
    moves = np.diff(places_N3, axis=0)
    if len(moves) == 0:
        return None, []
    steps = moves @ normal
    usual = float(np.median(steps))
    findings = [
        Finding(GAP, (order[n], order[n + 1]), float(step))
        for n, step in enumerate(steps)
        if step > _GAP * usual
    ]
    whole = steps[steps <= _GAP * usual]
    departure = float(np.abs(whole - usual).max(initial=0.0))
    if departure > _UNEVEN * usual:
        findings.append(Finding(UNEVEN_SPACING, order, departure))
    sideways = np.linalg.norm(moves - steps[:, None] * normal, axis=1)
    tilt = float(np.degrees(np.median(np.arctan2(sideways, steps))))
    if tilt > _TILT_DEGREES:
        findings.append(Finding(GANTRY_TILT, order, tilt))
    return usual, findings
