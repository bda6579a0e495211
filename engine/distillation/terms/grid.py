"""Bringing a student's map to the grid of its teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized(map_s: Tensor, like: Tensor) -> Tensor:
    """``map_s`` [B, C, h, w] in float32, averaged to the height and width of ``like``."""
    height, width = like.shape[2:]
    is_same = map_s.shape[2:] == like.shape[2:]
    return map_s.float() if is_same else F.adaptive_avg_pool2d(map_s.float(), (height, width))
