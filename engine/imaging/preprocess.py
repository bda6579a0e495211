"""A frame -> the image a network sees, and the Geometry that undoes it.

A film is resized so that it fits the view; the view's steps follow; then it is centred on black. What is no
film (padding, what a shutter hides, the bars around it) has no part in any statistic: it is painted last.
A View names the steps and their facts and travels with the weights, so bulk scoring, HTTP and training see
the same pixels.
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

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

_HALVED_FROM = 16
"""Pixels a side that make one of the view, from which on 2 x 2 of them are averaged first. What lies on the
edge of two pixels of the view is then shared by them in other parts: the benchmarks say what it changes."""

_HALF_UP = 1e-3
"""Of 255: a grey that lies on a half goes up, whatever the last digits of the chain before it were."""
_LEAST_SHARE = 0.5
_LEAST_SPAN = 1e-6
"""Of display values: a tenth of one step of 16 bits. Less is rounding, not contrast."""

cv2.setNumThreads(1)  # Ray gives a task one core; OpenCV's own pool would take them all


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a network sees: grid size (rows, columns), steps after the resize by name, and the steps' facts.

    With a ``window`` the steps get modality values between its two numbers as 0 to 1 (Hounsfield units of a
    CT), whatever the file says of its display; without one the display values of the file.
    """

    size_HW: tuple[int, int]
    steps: tuple[str, ...] = ("stretch",)
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
    film_HW = None if frame.film_HW is None else frame.film_HW[rows, columns]
    moved = geometry.padded(frame.original_HW, size, top=-rows.start, left=-columns.start)
    return replace(frame, values_HW=values_HW, original_HW=size, film_HW=film_HW), moved


def erased(frame: Frame, box: Box, grey: float) -> Frame:
    """A frame at full resolution without the film in a box: ``grey`` is there, a display value."""
    rows, columns = _pixels(box, frame)
    film_HW = np.ones(frame.values_HW.shape, np.bool_) if frame.film_HW is None else frame.film_HW.copy()
    film_HW[rows, columns] = False
    return replace(frame, film_HW=film_HW, fill=grey)


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


def apply_to_frame(frame: Frame, view: View) -> tuple[NDArray[np.uint8], Geometry]:
    """A frame to the view's uint8 image, with the map from its original pixels to the view's.

    The few pixels after the resize are mapped to display values, instead of all before it.
    """
    small_HW, film_HW = _fitted(frame, view)
    image_HW = frame.shaded(small_HW)
    for name in view.steps:
        image_HW = STEPS[name](image_HW, film_HW, view)
    image_HW[~film_HW] = frame.fill
    canvas_HW, moved = _centred(image_HW, frame.original_HW, view)
    return np.rint(np.clip(canvas_HW, 0.0, 1.0) * 255.0 + _HALF_UP).astype(np.uint8), moved


def apply(image_HW: NDArray[np.float32], view: View) -> tuple[NDArray[np.uint8], Geometry]:
    """Display values in [0, 1] to the view's uint8 image, with the map between the two grids."""
    return apply_to_frame(Frame(image_HW, 1.0, 0.0, (image_HW.shape[0], image_HW.shape[1])), view)


def fitted_HW(view: View, original_HW: tuple[int, int], aspect: float = 1.0) -> tuple[int, int]:
    """Size (rows, columns) in the view of an original whose pixels are ``aspect`` times as high as wide.

    It is also the least resolution of the original that the view can be made from.
    """
    height, width = original_HW[0] * aspect, original_HW[1]
    scale = min(view.size_HW[0] / height, view.size_HW[1] / width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _fitted(frame: Frame, view: View) -> tuple[NDArray[Any], Mask]:
    """(The frame's values, which of them show the film) on the grid of ``fitted_HW``.

    Where not all is film, a value is the mean of the film in it; a pixel is film that is so for half or more.
    """
    inner = fitted_HW(view, frame.original_HW, frame.aspect)
    if frame.film_HW is None:
        return _resized(frame.values_HW, frame, inner), np.ones(inner, np.bool_)
    share_HW = _resized(frame.film_HW.astype(np.float32), frame, inner)
    sum_HW = _resized(np.where(frame.film_HW, frame.values_HW, 0).astype(np.float32), frame, inner)
    film_HW = share_HW >= _LEAST_SHARE
    return np.divide(sum_HW, share_HW, out=np.zeros_like(sum_HW), where=film_HW), film_HW


def _resized(values_HW: NDArray[Any], frame: Frame, inner: tuple[int, int]) -> NDArray[Any]:
    """Values on the frame's grid brought to ``inner`` (rows, columns) of the original's own area.

    An axis that shrinks is averaged, one that grows is interpolated.
    """
    reduction = frame.reduction
    if reduction == 1 and all(inner[axis] * _HALVED_FROM <= frame.original_HW[axis] for axis in (0, 1)):
        values_HW, reduction = _halved(values_HW), 2
    if reduction == 1:
        least = [min(inner[axis], frame.original_HW[axis]) for axis in (0, 1)]
        least_HW = cv2.resize(values_HW, (least[1], least[0]), interpolation=cv2.INTER_AREA)
        return cv2.resize(least_HW, (inner[1], inner[0]), interpolation=cv2.INTER_LINEAR)
    # A reduced grid may reach beyond the original: the factors are the original's, not those of the two
    # grids.
    fy, fx = (inner[axis] * reduction / frame.original_HW[axis] for axis in (0, 1))
    method = cv2.INTER_AREA if max(fy, fx) < 1 else cv2.INTER_LINEAR
    return cv2.resize(values_HW, None, fx=fx, fy=fy, interpolation=method)[: inner[0], : inner[1]]


def _halved(values_HW: NDArray[Any]) -> NDArray[Any]:
    """Means of 2 x 2 pixels: OpenCV has vectors for them, and none for the area resize that follows."""
    rows, columns = values_HW.shape
    if rows % 2 or columns % 2:
        values_HW = cv2.copyMakeBorder(values_HW, 0, rows % 2, 0, columns % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(values_HW, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _centred(small_HW: Image, original_HW: tuple[int, int], view: View) -> tuple[Image, Geometry]:
    height, width = view.size_HW
    rows, columns = small_HW.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas_HW = np.zeros((height, width))
    canvas_HW[top : top + rows, left : left + columns] = small_HW
    moved = geometry.resized(original_HW, (rows, columns))
    return canvas_HW, moved.then(geometry.padded((rows, columns), view.size_HW, top=top, left=left))


def stretch(image_HW: Image, film_HW: Mask, view: View) -> Image:
    """Map the view's two percentiles of the film to 0 and 1; a flat image becomes black."""
    ordered = np.sort(image_HW[film_HW])  # with vectors: 4 times faster than np.percentile's selection
    if not ordered.size:
        return np.zeros_like(image_HW)
    low, high = (_percentile(ordered, percent) for percent in view.stretch_percentiles)
    if high - low < _LEAST_SPAN:
        return np.zeros_like(image_HW)
    return np.clip((image_HW - low) / (high - low), 0.0, 1.0)


def _percentile(ordered: Image, percent: float) -> float:
    """The value below which ``percent`` of the ascending values lie, between two of them on the line."""
    place = percent / 100 * (ordered.size - 1)
    low, high = ordered[int(place)], ordered[min(int(place) + 1, ordered.size - 1)]
    return float(low + (high - low) * (place % 1))


Step = Callable[[Image, Mask, View], Image]
"""(Display values, which of them show the film, view) -> display values, of the resized film."""

STEPS: dict[str, Step] = {"stretch": stretch}
