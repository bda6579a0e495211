"""One object per view: original pixels to network pixels and back.

Points are (x, y) = (column, row) in pixels, zero at the centre of the top-left pixel. Every box, map and
landmark passes through a Geometry; nobody scales coordinates by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Geometry:
    """Affine map from original pixel to network pixel, 3x3 in homogeneous (x, y, 1) coordinates.

    ``original_HW`` and ``network_HW`` are (rows, columns) of the two grids.
    """

    matrix_33: NDArray[np.float64]
    original_HW: tuple[int, int]
    network_HW: tuple[int, int]

    def to_network(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Original pixel points [N, 2] to network pixel points [N, 2]."""
        return _apply(self.matrix_33, points_N2)

    def to_original(self, points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Network pixel points [N, 2] to original pixel points [N, 2]."""
        return _apply(np.linalg.inv(self.matrix_33).astype(np.float64), points_N2)

    def then(self, after: Geometry) -> Geometry:
        """This view followed by ``after``, whose original grid is this one's network grid."""
        return Geometry(after.matrix_33 @ self.matrix_33, self.original_HW, after.network_HW)


def identity(size_HW: tuple[int, int]) -> Geometry:
    """The view that changes nothing, on a grid of ``size_HW`` (rows, columns)."""
    return Geometry(np.eye(3), size_HW, size_HW)


def resized(original_HW: tuple[int, int], network_HW: tuple[int, int]) -> Geometry:
    """Resize of the whole grid; pixel *areas* are aligned, so x' = (x + 0.5) * s - 0.5."""
    sy, sx = network_HW[0] / original_HW[0], network_HW[1] / original_HW[1]
    matrix = np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5], [0.0, 0.0, 1.0]])
    return Geometry(matrix, original_HW, network_HW)


def padded(original_HW: tuple[int, int], network_HW: tuple[int, int], *, top: int, left: int) -> Geometry:
    """The grid placed at (row ``top``, column ``left``) of a larger one; negative values crop."""
    matrix = np.array([[1.0, 0.0, left], [0.0, 1.0, top], [0.0, 0.0, 1.0]])
    return Geometry(matrix, original_HW, network_HW)


def mirrored(size_HW: tuple[int, int]) -> Geometry:
    """Left and right exchanged on a grid of ``size_HW``."""
    matrix = np.array([[-1.0, 0.0, size_HW[1] - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return Geometry(matrix, size_HW, size_HW)


def _apply(matrix_33: NDArray[np.float64], points_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.asarray(points_N2, dtype=np.float64)
    moved: NDArray[np.float64] = points @ matrix_33[:2, :2].T + matrix_33[:2, 2]
    return moved
