"""Terms on class maps: dense logits [B, K, h, w], whose spatial mean is the logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.age_distribution import attention
from engine.batch import Batch
from engine.models import Outputs
from engine.terms.grid import resized

CAT_CELLS = 2
_EPS = 1e-6


def gradcam(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """1 - cos(M_s, M_t) of the positive class maps (e2KD, arXiv 2402.03119); dead maps are left out."""
    map_s = resized(attention(student.dense_BKhw)[:, None], teacher.dense_BKhw).flatten(1)
    map_t = attention(teacher.dense_BKhw).detach().flatten(1)
    is_alive = (map_s.amax(1) > 0) & (map_t.amax(1) > 0)
    distance_B = (1 - F.cosine_similarity(map_s, map_t, dim=1, eps=_EPS)) * is_alive
    return distance_B.sum() / is_alive.sum().clamp_min(1)


def cat(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Squared distance of each bin's class map, pooled to 2 x 2 and of unit length (arXiv 2303.15464).

    The mean is over bins and samples.
    """
    cells_s, cells_t = (
        F.normalize(F.adaptive_avg_pool2d(dense.float(), CAT_CELLS).flatten(2), dim=2, eps=_EPS)
        for dense in (student.dense_BKhw, teacher.dense_BKhw.detach())
    )
    return (cells_s - cells_t).square().sum(2).mean()
