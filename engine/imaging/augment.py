"""Augmentation on batches: one affine and one intensity change an image, drawn for a whole epoch at once.

The affine is a Warp: what belongs to the image (maps, points, boxes) moves with it. Draws
depend on seed, epoch and the sample's place alone, so the number of workers never changes them.
Legend: N samples of the epoch, B batch, V views, H, W view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import UsageError
from engine.imaging.warp import Warp

_RANGES = {
    "rotation_deg": (0.0, 180.0),
    "scale": (0.0, 0.9),
    "shift": (0.0, 1.0),
    "gamma": (0.0, 2.0),
    "contrast": (0.0, 1.0),
    "flip": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Ranges: degrees, relative scale, shift as share of the view, and exponents / factors of intensity."""

    rotation_deg: float = 15.0
    scale: float = 0.15
    shift: float = 0.08
    gamma: float = 0.3
    contrast: float = 0.2
    flip: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges that would turn an image inside out."""
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"augmentation.{name} must be in {low:g}..{high:g}")


@dataclass(frozen=True, slots=True)
class Draws:
    """Affine matrices [N, 2, 3], gamma [N], contrast [N].

    A matrix takes what is shown to its source, in normalised coordinates of a square view.
    """

    affine_N23: Tensor
    gamma_N: Tensor
    contrast_N: Tensor

    def at(self, index_B: Tensor) -> Draws:
        """The draws of some samples."""
        return Draws(self.affine_N23[index_B], self.gamma_N[index_B], self.contrast_N[index_B])

    def warp(self, size_HW: tuple[int, int]) -> Warp:
        """The affines on views of (rows, columns) pixels: rotations turn without shear on any of them."""
        height, width = size_HW
        theta_N33 = torch.zeros(len(self.affine_N23), 3, 3, dtype=torch.float64)
        theta_N33[:, :2], theta_N33[:, 2, 2] = self.affine_N23, 1.0
        theta_N33[:, 0, 1] *= height / width
        theta_N33[:, 1, 0] *= width / height
        return Warp(theta_N33, size_HW, size_HW)


def draw(count: int, ranges: Augmentation, *, seed: int, epoch: int) -> Draws:
    """Draws of one epoch for ``count`` samples."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    u = torch.rand((count, 7), generator=generator) * 2 - 1
    angle = u[:, 0] * torch.pi * ranges.rotation_deg / 180
    zoom = 1 + u[:, 1] * ranges.scale
    mirror = torch.where(u[:, 2] < 2 * ranges.flip - 1, -1.0, 1.0)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    shift_x, shift_y = u[:, 3] * 2 * ranges.shift, u[:, 4] * 2 * ranges.shift
    rows = torch.stack([cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y], 1)
    return Draws(rows.reshape(-1, 2, 3), (u[:, 5] * ranges.gamma).exp(), 1 + u[:, 6] * ranges.contrast)


def augmented(x_BVHW: Tensor, draws: Draws) -> Tensor:
    """Warped and re-exposed images, still in [0, 1]; outside the image is black."""
    warp = draws.warp((x_BVHW.shape[2], x_BVHW.shape[3]))
    return exposed(warp.maps(x_BVHW), draws)


def exposed(x_BVHW: Tensor, draws: Draws) -> Tensor:
    """Images in [0, 1] to the power of gamma, times contrast, cut to [0, 1]."""
    gamma_B111 = draws.gamma_N[:, None, None, None].to(x_BVHW.device)
    contrast_B111 = draws.contrast_N[:, None, None, None].to(x_BVHW.device)
    shown: Tensor = (x_BVHW.clamp(0, 1) ** gamma_B111 * contrast_B111).clamp(0, 1)
    return shown
