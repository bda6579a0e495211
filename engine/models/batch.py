"""What one training step sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from engine.imaging.warp import Warp


@dataclass(frozen=True, slots=True)
class Batch:
    """Images in [0, 1] [B, V, H, W] of V views, covariates [B, Q], and targets [B] by column.

    ``truth`` holds what ``Learning.targets`` gives; points and boxes among it lie on the view as it was
    ingested, and ``warp`` takes that view to the images shown (None where nothing was moved).
    """

    x_BVHW: Tensor
    covariates_BQ: Tensor
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    warp: Warp | None = None
