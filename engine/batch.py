"""What one training step sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Images in [0, 1] [B, 1, H, W], sex [B, 1], true months [B]."""

    x_B1HW: Tensor
    sex_B1: Tensor
    months_B: Tensor
