"""Steps: display values -> the image a network sees, and the Geometry that undoes it.

A step is a pure function on one image; a View names the steps and their facts and travels with the weights,
so bulk scoring, HTTP and training see the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.dicom.frame import Frame
from engine.errors import UnknownNameError, UsageError
from engine.imaging import geometry
from engine.imaging.boxes import Box, cut
from engine.imaging.geometry import Geometry

Image = NDArray[np.float32]

_HALVED_FROM = 3
"""Pixels a side that make one of the view, from which on 2 x 2 of them are averaged first. What lies on the
edge of two pixels of the view is then shared by them in other parts: the benchmarks say what it changes."""

cv2.setNumThreads(1)  # Ray gives a task one core; OpenCV's own pool would take them all


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a network sees: grid size (rows, columns), steps by name, and the steps' facts.

    With a ``window`` the steps get modality values between its two numbers as 0 to 1 (Hounsfield units of a
    CT), whatever the file says of its display; without one the display values of the file.
    """

    size_HW: tuple[int, int]
    steps: tuple[str, ...] = ("resize_pad", "stretch")
    stretch_percentiles: tuple[float, float] = (0.5, 99.5)
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse unknown steps and empty windows early.

        Raises:
            UnknownNameError: no such step.
            UsageError: the window ends where it begins, or before.
        """
        if self.window and not self.window[0] < self.window[1]:
            raise UsageError(f"a window goes from a lower to a higher value, not {self.window}")
        for name in self.steps:
            if name not in STEPS:
                raise UnknownNameError("step", name, STEPS)

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``view_from_facts`` reads them back."""
        return asdict(self)


def view_from_facts(facts: Mapping[str, Any]) -> View:
    """The View that ``View.facts`` described."""
    window = facts.get("window")
    return View(
        size_HW=(int(facts["size_HW"][0]), int(facts["size_HW"][1])),
        steps=tuple(facts["steps"]),
        stretch_percentiles=(float(facts["stretch_percentiles"][0]), float(facts["stretch_percentiles"][1])),
        window=(float(window[0]), float(window[1])) if window else None,
    )


def cropped(frame: Frame, box: Box) -> tuple[Frame, Geometry]:
    """The pixels of a frame at full resolution whose centres lie in a box; at least one."""
    rows, columns = _pixels(box, frame)
    values_HW = frame.values_HW[rows, columns]
    size = (values_HW.shape[0], values_HW.shape[1])
    moved = geometry.padded(frame.original_HW, size, top=-rows.start, left=-columns.start)
    return replace(frame, values_HW=values_HW, original_HW=size), moved


def erased(frame: Frame, box: Box, grey: float) -> Frame:
    """A frame at full resolution whose pixels in a box have the one display value ``grey``, 0..1."""
    rows, columns = _pixels(box, frame)
    shown_HW = frame.shaded(frame.values_HW)
    shown_HW[rows, columns] = grey
    return Frame(shown_HW, 1.0, 0.0, frame.original_HW)


def _pixels(box: Box, frame: Frame) -> tuple[slice, slice]:
    if frame.reduction > 1:
        raise ValueError("a box is cut at full detail: give a frame at full resolution")
    inner = cut(box, frame.original_HW)
    rows, columns = (
        _between(low, high, count)
        for low, high, count in zip(
            (inner.top, inner.left), (inner.bottom, inner.right), frame.original_HW, strict=True
        )
    )
    return rows, columns


def _between(low: float, high: float, count: int) -> slice:
    """Pixels 0..count - 1 whose centres lie between two edges; the nearest one where there is none."""
    start = min(max(math.ceil(low), 0), count - 1)
    return slice(start, min(max(math.floor(high) + 1, start + 1), count))


def least_HW(view: View, original_HW: tuple[int, int]) -> tuple[int, int] | None:
    """The least resolution (rows, columns) of an original that the view can be made from; None: all of it."""
    return fitted_HW(view, original_HW) if view.steps[:1] == (FITS,) else None


def apply_to_frame(frame: Frame, view: View) -> tuple[NDArray[np.uint8], Geometry]:
    """A frame to the view's uint8 image, with the map from its original pixels to the view's.

    Where the first step resizes, the few pixels after it are mapped to display values instead of all
    before it.
    """
    if view.steps[:1] == (FITS,):
        small = frame.shaded(_fitted(frame, view))
        canvas, moved = _centred(small, frame.original_HW, view)
        return _finished(canvas, moved, view, view.steps[1:])
    if frame.reduction > 1:
        raise ValueError("a view whose first step does not resize needs a frame at full resolution")
    return apply(frame.shaded(frame.values_HW), view)


def apply(image_HW: Image, view: View) -> tuple[NDArray[np.uint8], Geometry]:
    """Display values in [0, 1] to the view's uint8 image, with the map between the two grids."""
    shape = (image_HW.shape[0], image_HW.shape[1])
    return _finished(image_HW, geometry.identity(shape), view, view.steps)


def _finished(
    image: Image, mapped: Geometry, view: View, steps: tuple[str, ...]
) -> tuple[NDArray[np.uint8], Geometry]:
    for name in steps:
        image, moved = STEPS[name](image, view)
        mapped = mapped.then(moved)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8), mapped


def resize_pad(image_HW: Image, view: View) -> tuple[Image, Geometry]:
    """Resize by area so that the image fits the view with its aspect kept; centre it on black."""
    shape = (image_HW.shape[0], image_HW.shape[1])
    return _centred(_fitted(Frame(image_HW, 1.0, 0.0, shape), view), shape, view)


def fitted_HW(view: View, original_HW: tuple[int, int]) -> tuple[int, int]:
    """Size (rows, columns) of an original that fits the view with its aspect kept."""
    scale = _scale(view, original_HW)
    return max(round(original_HW[0] * scale), 1), max(round(original_HW[1] * scale), 1)


def _scale(view: View, original_HW: tuple[int, int]) -> float:
    return min(view.size_HW[0] / original_HW[0], view.size_HW[1] / original_HW[1])


def _fitted(frame: Frame, view: View) -> NDArray[Any]:
    """The frame's values on the grid of ``fitted_HW``."""
    inner = fitted_HW(view, frame.original_HW)
    scale = _scale(view, frame.original_HW)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if frame.reduction == 1 and scale * _HALVED_FROM <= 1:
        frame = _halved(frame)
    if frame.reduction == 1:
        return cv2.resize(frame.values_HW, (inner[1], inner[0]), interpolation=method)
    # A reduced grid may reach beyond the original: the factors are the original's, not those of the two
    # grids.
    fy, fx = (inner[axis] * frame.reduction / frame.original_HW[axis] for axis in (0, 1))
    resized = cv2.resize(frame.values_HW, None, fx=fx, fy=fy, interpolation=method)
    return resized[: inner[0], : inner[1]]


def _halved(frame: Frame) -> Frame:
    """Means of 2 x 2 pixels: OpenCV has vectors for them, and none for the area resize that follows."""
    values_HW = frame.values_HW
    rows, columns = values_HW.shape
    if rows % 2 or columns % 2:
        values_HW = cv2.copyMakeBorder(values_HW, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    halved_HW = cv2.resize(values_HW, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return replace(frame, values_HW=halved_HW, reduction=2)


def _centred(small_HW: NDArray[Any], original_HW: tuple[int, int], view: View) -> tuple[Image, Geometry]:
    height, width = view.size_HW
    rows, columns = small_HW.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas = np.zeros((height, width), np.float32)
    canvas[top : top + rows, left : left + columns] = small_HW
    moved = geometry.resized(original_HW, (rows, columns))
    return canvas, moved.then(geometry.padded((rows, columns), view.size_HW, top=top, left=left))


def stretch(image_HW: Image, view: View) -> tuple[Image, Geometry]:
    """Map the view's two percentiles of the image to 0 and 1; a flat image becomes black."""
    ordered = np.sort(image_HW, axis=None)  # with vectors: 4 times faster than np.percentile's selection
    low, high = (_percentile(ordered, percent) for percent in view.stretch_percentiles)
    span = high - low
    flat = np.zeros_like(image_HW)
    shown = ((image_HW - low) / span).astype(np.float32) if span > 0 else flat
    shape = (image_HW.shape[0], image_HW.shape[1])
    return np.clip(shown, 0.0, 1.0), geometry.identity(shape)


def _percentile(ordered: NDArray[np.float32], percent: float) -> np.float32:
    """The value below which ``percent`` of the ascending values lie, between two of them on the line."""
    place = percent / 100 * (ordered.size - 1)
    low, high = ordered[int(place)], ordered[min(int(place) + 1, ordered.size - 1)]
    return np.float32(low + (high - low) * np.float32(place % 1))


Step = Callable[[Image, View], tuple[Image, Geometry]]

STEPS: dict[str, Step] = {"resize_pad": resize_pad, "stretch": stretch}

FITS = "resize_pad"
"""The step that takes detail away for good: a view that begins with it needs no more resolution than it
keeps. A view that begins with any other step (a crop at full detail, percentiles) gets all of it."""
