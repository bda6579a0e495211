"""What one training step sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Images in [0, 1] [B, V, H, W] of V views, covariates [B, Q], months [B] that are aimed at.

    Where a training takes pseudo-labels: their mean and sd ``pseudo_B2`` in months (NaN where there is none),
    and whether the months [B] are an expert's.
    """

    x_BVHW: Tensor
    covariates_BQ: Tensor
    months_B: Tensor
    pseudo_B2: Tensor | None = None
    is_expert_B: Tensor | None = None
