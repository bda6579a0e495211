"""Attention map -> box in original pixels, and the chain hand, carpals, metacarpals. No label is needed.

The chain is that of Chen et al., arXiv 2006.00202: threshold the class map, keep a component, take its box;
then look again with the first region out of the way. Boxes are found on the network's grid and pass through
the instance's Geometry. No image is ever lost: where nothing is found the box is the whole image, flagged.

Legend: h, w cells of the map; H, W pixels of the network's view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import UnknownNameError, UsageError
from engine.imaging.boxes import Box, cut, whole_image
from engine.imaging.geometry import Geometry

Mode = Literal["largest", "union"]
Map = NDArray[np.float32]

_EIGHT_NEIGHBOURS = 8
_CELLS = 7
"""A side of the maps that RULES were chosen on: a threshold means another box where attention is sharper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A box, and whether it was found; where not, it is the whole image."""

    box: Box
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRule:
    """How a box is read off a map.

    ``tau`` is the threshold as a share of the map's maximum; ``largest`` keeps the component that holds the
    most attention, ``union`` all of them. Each side moves out by ``pad`` of the box's width or height;
    ``square`` widens the shorter side. A box of less than ``min_share`` of the image is not believed.
    """

    tau: float
    mode: Mode = "largest"
    pad: float = 0.0
    square: bool = False
    min_share: float = 0.005

    def __post_init__(self) -> None:
        """Refuse senseless numbers."""
        if self.mode not in get_args(Mode):
            raise UnknownNameError("mode", self.mode, get_args(Mode))
        for name, value, high in (("tau", self.tau, 1.0), ("pad", self.pad, 2.0)):
            if not 0.0 <= value <= high:
                raise UsageError(f"{name} of a box rule must be in 0..{high:g}")
        if not 0.0 <= self.min_share < 1.0:
            raise UsageError("min_share of a box rule must be at least 0 and under 1")

    def facts(self) -> dict[str, Any]:
        """JSON-able facts."""
        return asdict(self)


RULES: dict[str, BoxRule] = {
    "hand": BoxRule(tau=0.08, mode="union", pad=0.1),
    "carpals": BoxRule(tau=0.4),
    "metacarpals": BoxRule(tau=0.5, mode="union"),
}
"""Region to its rule, for maps as ``coarse`` gives them. ``carpals`` is the most discriminative region,
``metacarpals`` what remains when its box is masked; the thresholds are those of
benchmarks/attention_boxes.py, chosen on half of its cases."""

COMMON_RULES: dict[str, BoxRule] = {
    "hand": RULES["hand"],
    "carpals": BoxRule(tau=0.77),
    "metacarpals": BoxRule(tau=0.5, mode="union"),
}
"""The same for the smoothed mean of many instances (``engine.tasks.ages.registration``): broad, so its
threshold is high."""


def regions(map_hw: Map, view: Geometry, rules: Mapping[str, BoxRule] = RULES) -> dict[str, Found]:
    """The regions of ``rules`` from the attention over one instance, in its original pixels."""
    found = {name: box_from_map(map_hw, rules[name], view) for name in ("hand", "carpals")}
    rest_HW = masked(on_grid(map_hw, view.network_HW), found["carpals"], view)
    return {**found, "metacarpals": box_from_map(rest_HW, rules["metacarpals"], view)}


def coarse(map_hw: Map) -> Map:
    """A map of more cells than RULES were chosen on, averaged down to as many; another as it is."""
    height, width = map_hw.shape
    shrunk = (min(width, _CELLS), min(height, _CELLS))
    clean_hw = on_grid(map_hw, (height, width))
    return np.asarray(cv2.resize(clean_hw, shrunk, interpolation=cv2.INTER_AREA))


def brought(found: Found, frame: Geometry) -> Found:
    """What was found in a frame, in the original pixels of an instance whose way to the frame is given.

    The box stays upright: around the middle of the turned one, of its sides. Off the image it is not found.
    """
    whole = whole_image(frame.original_HW)
    if not found.ok:
        return Found(box=whole, ok=False)
    box = found.box
    corners_42 = np.array([(x, y) for x in (box.left, box.right) for y in (box.top, box.bottom)])
    placed_42 = frame.to_original(corners_42)
    middle_2, across_2, down_2 = placed_42.mean(0), placed_42[2] - placed_42[0], placed_42[1] - placed_42[0]
    if abs(across_2[0]) < abs(across_2[1]):  # turned by more than an eighth: its width stands upright
        across_2, down_2 = down_2, across_2
    half_2 = np.array([np.linalg.norm(across_2), np.linalg.norm(down_2)]) / 2
    cut_box = cut(_as_box(np.stack([middle_2 - half_2, middle_2 + half_2])), frame.original_HW)
    return Found(box=cut_box, ok=True) if cut_box.area > 0 else Found(box=whole, ok=False)


def box_from_map(map_hw: Map, rule: BoxRule, view: Geometry) -> Found:
    """The box of ``rule`` in original pixels; the whole image, not ok, where the map shows nothing.

    Negative and non-finite cells count as zero (a class map may be negative). The map covers the view.
    """
    map_HW = on_grid(map_hw, view.network_HW)
    peak = float(map_HW.max())
    whole = whole_image(view.original_HW)
    if peak <= 0:
        return Found(box=whole, ok=False)
    rows, columns = np.nonzero(_kept(map_HW, (map_HW > 0) & (map_HW >= rule.tau * peak), rule))
    edges_22 = np.array([(columns.min() - 0.5, rows.min() - 0.5), (columns.max() + 0.5, rows.max() + 0.5)])
    box = cut(_grown(_as_box(view.to_original(edges_22)), rule), view.original_HW)
    is_believed = box.area >= rule.min_share * whole.area and box.area > 0
    return Found(box=box, ok=True) if is_believed else Found(box=whole, ok=False)


def masked(map_HW: Map, found: Found, view: Geometry) -> Map:
    """The map, on the view's grid, with zero inside a box; as it is where no box was found."""
    if not found.ok:
        return map_HW
    box = found.box
    inner = _as_box(view.to_network(np.array([(box.left, box.top), (box.right, box.bottom)])))
    rest_HW = map_HW.copy()
    rest_HW[_inside(inner.top, inner.bottom), _inside(inner.left, inner.right)] = 0.0
    return rest_HW


def on_grid(map_hw: Map, size_HW: tuple[int, int]) -> Map:
    """Bilinear on the view's grid, pixel areas aligned; what is negative or not finite becomes 0."""
    clean_hw = np.where(np.isfinite(map_hw) & (map_hw > 0), map_hw, 0.0).astype(np.float32)
    if clean_hw.shape == size_HW:
        return clean_hw
    return np.asarray(cv2.resize(clean_hw, (size_HW[1], size_HW[0]), interpolation=cv2.INTER_LINEAR))


def _kept(map_HW: Map, is_in_HW: NDArray[np.bool_], rule: BoxRule) -> NDArray[np.bool_]:
    if rule.mode == "union":
        return is_in_HW
    _, labels_HW = cv2.connectedComponents(is_in_HW.astype(np.uint8), connectivity=_EIGHT_NEIGHBOURS)
    mass = np.bincount(labels_HW.reshape(-1), weights=map_HW.reshape(-1))
    mass[0] = -1.0  # the background
    kept: NDArray[np.bool_] = labels_HW == int(np.argmax(mass))
    return kept


def _grown(box: Box, rule: BoxRule) -> Box:
    width, height = (box.right - box.left) * (1 + 2 * rule.pad), (box.bottom - box.top) * (1 + 2 * rule.pad)
    if rule.square:
        width = height = max(width, height)
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return Box(left=x - width / 2, top=y - height / 2, right=x + width / 2, bottom=y + height / 2)


def _as_box(corners_22: NDArray[np.float64]) -> Box:
    (left, top), (right, bottom) = corners_22.min(axis=0).tolist(), corners_22.max(axis=0).tolist()
    return Box(left=left, top=top, right=right, bottom=bottom)


def _inside(low: float, high: float) -> slice:
    """Pixels whose centres lie between two edges."""
    return slice(max(int(np.ceil(low)), 0), max(int(np.floor(high)) + 1, 0))
