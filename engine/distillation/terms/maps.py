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
SPATIAL_TEMPERATURE = 3.0
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


def spatial(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """T^2 KL(softmax(Z_t,ij / T) || softmax(Z_s,ij / T)) of what each place says, T = 3; dense logits Z.

    The mean over places weighs each by the teacher's attention, so that it is over what the teacher saw where
    it saw a part of the image only. Samples on which that is dead are left out. After Milani et al. 2025, a
    reading of the abstract's "spatial logits".
    """
    local_s = student.class_maps_BKhw if student.local_BKhw is None else student.local_BKhw
    local_t = teacher.class_maps_BKhw if teacher.local_BKhw is None else teacher.local_BKhw
    weight_Bhw = resized(attention_of(teacher).detach()[:, None], local_s)[:, 0]
    log_t, log_s = (
        (local.float() / SPATIAL_TEMPERATURE).log_softmax(1)
        for local in (resized(local_t.detach(), local_s), local_s)
    )
    apart_Bhw = SPATIAL_TEMPERATURE**2 * (log_t.exp() * (log_t - log_s)).sum(1)
    whole_B = weight_Bhw.sum((1, 2))
    mean_B = (weight_Bhw * apart_Bhw).sum((1, 2)) / whole_B.clamp_min(_EPS)
    return mean_B.sum() / (whole_B > 0).sum().clamp_min(1)


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
