"""Warps: one affine a sample moves an image together with its maps, points and boxes.

Points are (x, y) = (column, row) in pixels of a view, zero at the centre of its top-left pixel, as in
geometry. A Warp works in normalised coordinates, which run from -1 to 1 over the whole view on any grid: the
same affine then moves the image and a coarse map of it.
Legend: B batch, C channels, P points, H, W view, h, w grid of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CORNERS = ((0, 1), (2, 1), (2, 3), (0, 3))


@dataclass(frozen=True, slots=True)
class Warp:
    """From a source view to the view that is shown, both of (rows, columns) pixels.

    ``theta_B33`` float64 takes normalised coordinates of what is shown to those of the source.
    """

    theta_B33: Tensor
    source_HW: tuple[int, int]
    shown_HW: tuple[int, int]

    def at(self, index_B: Tensor) -> Warp:
        """The warps of some samples."""
        return Warp(self.theta_B33[index_B], self.source_HW, self.shown_HW)

    def then(self, after: Warp) -> Warp:
        """This warp followed by ``after``, whose source is what this one shows."""
        return Warp(self.theta_B33 @ after.theta_B33, self.source_HW, after.shown_HW)

    def maps(self, maps_BChw: Tensor, finer: int = 1) -> Tensor:
        """Images or maps over the source view, on the same grid over the shown view, or a ``finer`` one.

        Bilinear; zero where nothing of the source is shown.
        """
        theta_B23 = self.theta_B33[:, :2].to(maps_BChw.device, maps_BChw.dtype)
        shape = [*maps_BChw.shape[:2], *(finer * side for side in maps_BChw.shape[2:])]
        grid = F.affine_grid(theta_B23, shape, align_corners=False)
        return F.grid_sample(maps_BChw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @property
    def shrinks(self) -> int:
        """How many times larger the shown view is than the source, by its side; at least 1, median over B."""
        sides_B = torch.linalg.det(self.theta_B33).abs().sqrt()
        return max(round(float(sides_B.median())), 1) if len(sides_B) else 1

    def points(self, points_BP2: Tensor) -> Tensor:
        """Pixel points [B, P, 2] of the source view as pixel points of the shown view, float64."""
        inverse_B33 = torch.linalg.inv(self.theta_B33)
        to_shown_B33 = _to_pixels(self.shown_HW) @ inverse_B33 @ _to_normalised(self.source_HW)
        moved_BP2: Tensor = points_BP2.double() @ to_shown_B33[:, :2, :2].mT + to_shown_B33[:, None, :2, 2]
        return moved_BP2

    def boxes(self, boxes_BP4: Tensor) -> Tensor:
        """Boxes (left, top, right, bottom) in pixel points: the upright boxes around the moved corners."""
        moved = torch.stack([self.points(boxes_BP4[:, :, corner]) for corner in _CORNERS])
        return torch.cat([moved.amin(0), moved.amax(0)], 2)


def between(
    source_B33: Tensor, shown_B33: Tensor, source_HW: tuple[int, int], shown_HW: tuple[int, int]
) -> Warp:
    """The warp between two views of the same originals, each given as original pixel -> network pixel."""
    shown_to_source_B33 = source_B33.double() @ torch.linalg.inv(shown_B33.double())
    theta_B33 = _to_normalised(source_HW) @ shown_to_source_B33 @ _to_pixels(shown_HW)
    return Warp(theta_B33, source_HW, shown_HW)


def _to_normalised(size_HW: tuple[int, int]) -> Tensor:
    """Pixel to normalised coordinates [3, 3]: pixel areas fill -1..1."""
    height, width = size_HW
    rows = [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def _to_pixels(size_HW: tuple[int, int]) -> Tensor:
    height, width = size_HW
    rows = [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)
