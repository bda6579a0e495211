"""Which pixels of an image show the film: not what a display shutter hides.

The Display Shutter module (PS3.3 C.7.6.11) has rectangles, circles and polygons; of several, the image shows
where all of them are open. Rows and columns count from 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.dicom import header as elements

Mask = NDArray[np.bool_]
Places = NDArray[Any]
"""Rows or columns of pixel centres in the original, from 1."""
_CORNERS = 3


def shutter(header: Dataset, size_HW: tuple[int, int], reduction: int = 1) -> Mask | None:
    """Which pixels the display shutter leaves open, on a grid of ``size_HW`` at 1 / ``reduction``.

    None where there is no shutter, or one that has no sense: it would hide everything, or nothing.
    """
    shapes = [shape for shape in elements.words(header, "ShutterShape") if shape in _SHAPES]
    if not shapes:
        return None
    # centres of the pixels of the reduced grid, in rows and columns of the original, from 1
    rows_H, columns_W = (
        np.arange(side, dtype=np.float64) * reduction + (reduction + 1) / 2 for side in size_HW
    )
    open_HW = np.ones(size_HW, np.bool_)
    for shape in shapes:
        open_HW &= _SHAPES[shape](header, rows_H, columns_W)
    return None if open_HW.all() or not open_HW.any() else open_HW


def _rectangle(header: Dataset, rows_H: Places, columns_W: Places) -> Mask:
    left, right, top, bottom = (
        elements.number(header, f"Shutter{edge}Edge")
        for edge in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    )
    is_row_H = (rows_H >= (top or 0)) & (rows_H <= (bottom or np.inf))
    is_column_W = (columns_W >= (left or 0)) & (columns_W <= (right or np.inf))
    return is_row_H[:, None] & is_column_W[None]


def _circle(header: Dataset, rows_H: Places, columns_W: Places) -> Mask:
    centre = elements.numbers(header, "CenterOfCircularShutter", 2)
    radius = elements.number(header, "RadiusOfCircularShutter")
    if centre is None or radius is None:
        return np.ones((len(rows_H), len(columns_W)), np.bool_)
    away_HW = (rows_H[:, None] - centre[0]) ** 2 + (columns_W[None] - centre[1]) ** 2
    inside_HW: Mask = away_HW <= radius**2
    return inside_HW


def _polygon(header: Dataset, rows_H: Places, columns_W: Places) -> Mask:
    """Even-odd rule; vertices are (row, column) pairs."""
    places = elements.all_numbers(header, "VerticesOfThePolygonalShutter")
    if len(places) % 2 or len(places) < 2 * _CORNERS:
        return np.ones((len(rows_H), len(columns_W)), np.bool_)
    corners_N2 = np.array(places, np.float64).reshape(-1, 2)
    inside_HW = np.zeros((len(rows_H), len(columns_W)), np.bool_)
    for (row, column), (next_row, next_column) in zip(
        corners_N2, np.roll(corners_N2, -1, axis=0), strict=True
    ):
        crosses_H = (rows_H < row) != (rows_H < next_row)
        with np.errstate(divide="ignore", invalid="ignore"):
            at_H = column + (rows_H - row) / (next_row - row) * (next_column - column)
        inside_HW ^= crosses_H[:, None] & (columns_W[None] < at_H[:, None])
    return inside_HW


_SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
