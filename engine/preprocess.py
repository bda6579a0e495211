"""Steps: display values -> the image a network sees, and the Geometry that undoes it.

A step is a pure function on one image; a View names the steps and their facts and travels with the weights,
so bulk scoring, HTTP and training see the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine import geometry
from engine.errors import UnknownNameError
from engine.geometry import Geometry

Image = NDArray[np.float32]

cv2.setNumThreads(1)  # Ray gives a task one core; OpenCV's own pool would take them all


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a network sees: grid size (rows, columns), steps by name, and the steps' facts."""

    size_HW: tuple[int, int]
    steps: tuple[str, ...] = ("resize_pad", "stretch")
    stretch_percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        """Refuse unknown steps early."""
        for name in self.steps:
            if name not in STEPS:
                raise UnknownNameError("step", name, STEPS)

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``view_from_facts`` reads them back."""
        return asdict(self)


def view_from_facts(facts: Mapping[str, Any]) -> View:
    """The View that ``View.facts`` described."""
    return View(
        size_HW=(int(facts["size_HW"][0]), int(facts["size_HW"][1])),
        steps=tuple(facts["steps"]),
        stretch_percentiles=(float(facts["stretch_percentiles"][0]), float(facts["stretch_percentiles"][1])),
    )


def apply(image_HW: Image, view: View) -> tuple[NDArray[np.uint8], Geometry]:
    """Display values in [0, 1] to the view's uint8 image, with the map between the two grids."""
    shape = (image_HW.shape[0], image_HW.shape[1])
    image, mapped = image_HW, geometry.identity(shape)
    for name in view.steps:
        image, moved = STEPS[name](image, view)
        mapped = mapped.then(moved)
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8), mapped


def resize_pad(image_HW: Image, view: View) -> tuple[Image, Geometry]:
    """Resize by area so that the image fits the view with its aspect kept; centre it on black."""
    rows, columns = image_HW.shape
    height, width = view.size_HW
    scale = min(height / rows, width / columns)
    inner = (max(round(rows * scale), 1), max(round(columns * scale), 1))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image_HW, (inner[1], inner[0]), interpolation=method)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas = np.zeros((height, width), np.float32)
    canvas[top : top + inner[0], left : left + inner[1]] = small
    moved = geometry.resized((rows, columns), inner)
    return canvas, moved.then(geometry.padded(inner, view.size_HW, top=top, left=left))


def stretch(image_HW: Image, view: View) -> tuple[Image, Geometry]:
    """Map the view's two percentiles of the image to 0 and 1; a flat image becomes black."""
    low, high = np.percentile(image_HW, view.stretch_percentiles)
    span = high - low
    flat = np.zeros_like(image_HW)
    shown = ((image_HW - low) / span).astype(np.float32) if span > 0 else flat
    shape = (image_HW.shape[0], image_HW.shape[1])
    return np.clip(shown, 0.0, 1.0), geometry.identity(shape)


Step = Callable[[Image, View], tuple[Image, Geometry]]

STEPS: dict[str, Step] = {"resize_pad": resize_pad, "stretch": stretch}
