"""Terms on class maps [B, K, h, w], evidence for each bin in each place, and on attention [B, h, w]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engine.distillation.terms.feature import resized
from engine.errors import TrainingError
from engine.models.batch import Batch
from engine.models.grad_cam import attention, attention_target, by_autograd
from engine.models.network import Outputs

CAT_CELLS = 2
_EPS = 1e-6


def gradcam(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """1 - cos(M_s, M_t) of the maps of attention (e2KD, arXiv 2402.03119); dead maps are left out.

    Of a dense head a map is the closed form; of another it is made by autograd at the deepest features.
    """
    teacher_Bhw = attention_of(teacher).detach()
    map_s = resized(attention_of(student)[:, None], teacher_Bhw[:, None]).flatten(1)
    map_t = teacher_Bhw.flatten(1)
    is_alive = (map_s.amax(1) > 0) & (map_t.amax(1) > 0)
    distance_B = (1 - F.cosine_similarity(map_s, map_t, dim=1, eps=_EPS)) * is_alive
    return distance_B.sum() / is_alive.sum().clamp_min(1)


def cat(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Squared distance of each bin's class map, pooled to 2 x 2 and of unit length (arXiv 2303.15464).

    The mean is over bins and samples.
    """
    cells_s, cells_t = (
        F.normalize(F.adaptive_avg_pool2d(dense.float(), CAT_CELLS).flatten(2), dim=2, eps=_EPS)
        for dense in (student.class_maps_BKhw, teacher.class_maps_BKhw.detach())
    )
    return (cells_s - cells_t).square().sum(2).mean()


def attention_of(outputs: Outputs) -> Tensor:
    """The map of attention [B, h, w] >= 0 as recorded, in closed form, or by autograd.

    Raises:
        TrainingError: there are neither class maps nor a graph to differentiate.
    """
    if outputs.attention_Bhw is not None:
        return outputs.attention_Bhw
    if outputs.dense_BKhw is not None:
        return attention(outputs.logits_BK, outputs.dense_BKhw)
    if not (outputs.features and outputs.logits_BK.requires_grad):
        raise TrainingError("the term gradcam needs a teacher with a dense head, or a recorded map")
    return by_autograd(attention_target(outputs.logits_BK), outputs.features[-1])
