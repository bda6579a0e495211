"""Distillation terms: each a function of student and teacher outputs, and the TERMS table.

A term takes (student, teacher, batch) and gives a scalar that is smallest when the student equals the
teacher; no gradient flows into the teacher. All compute in float32 whatever the precision of the trunk.
Legend: B batch, K bins, C channels, h, w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.age_distribution import attention, expectation
from engine.models import AgeNet, Outputs

KD_TEMPERATURE = 4.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Images in [0, 1] [B, 1, H, W], sex [B, 1], true months [B]."""

    x_B1HW: Tensor
    sex_B1: Tensor
    months_B: Tensor


def kd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """T^2 KL(softmax(z_t/T) || softmax(z_s/T)), T = 4 (Hinton et al., arXiv 1503.02531)."""
    return KD_TEMPERATURE**2 * _kl(teacher.logits_BK / KD_TEMPERATURE, student.logits_BK / KD_TEMPERATURE)


def age_kl(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """KL(p_t || p_s) between the age distributions, T = 1."""
    return _kl(teacher.logits_BK, student.logits_BK)


def reg(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """SmoothL1 between expected months, counted only where the student is further from the truth.

    The bound is that of Chen et al., NeurIPS 2017 (teacher-bounded regression).
    """
    months_s, months_t = expectation(student.logits_BK), expectation(teacher.logits_BK).detach()
    is_worse = (months_s - batch.months_B).abs() > (months_t - batch.months_B).abs()
    return (F.smooth_l1_loss(months_s, months_t, reduction="none") * is_worse).mean()


def hint(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """MSE(phi(F_s), F_t) on standardised maps, mean over taps (FitNets, arXiv 1412.6550).

    Each channel of both maps is standardised over batch and space, so that taps weigh alike.
    """
    losses = [
        F.mse_loss(_standardised(_resized(f_s, f_t)), _standardised(f_t.detach()))
        for f_s, f_t in zip(student.adapted, teacher.features, strict=True)
    ]
    return torch.stack(losses).mean()


def gradcam(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """1 - cos(M_s, M_t) of the positive class maps (e2KD, arXiv 2402.03119); dead maps are left out."""
    map_s = _resized(attention(student.dense_BKhw)[:, None], teacher.dense_BKhw).flatten(1)
    map_t = attention(teacher.dense_BKhw).detach().flatten(1)
    is_alive = (map_s.amax(1) > 0) & (map_t.amax(1) > 0)
    distance_B = (1 - F.cosine_similarity(map_s, map_t, dim=1, eps=1e-6)) * is_alive
    return distance_B.sum() / is_alive.sum().clamp_min(1)


Term = Callable[[Outputs, Outputs, Batch], Tensor]

TERMS: dict[str, Term] = {"kd": kd, "age_kl": age_kl, "reg": reg, "hint": hint, "gradcam": gradcam}


class Trainee(nn.Module):
    """The network in training plus the adapters phi of the hint term, which are never deployed."""

    def __init__(self, net: AgeNet, teacher_channels: tuple[int, ...] = ()) -> None:
        """Adapters are made only where ``teacher_channels`` are given."""
        super().__init__()
        self.net = net
        pairs = zip(net.channels, teacher_channels, strict=True) if teacher_channels else ()
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in pairs)

    def forward(self, x_B1HW: Tensor, sex_B1: Tensor) -> Outputs:
        """Outputs of the network, with adapted features."""
        outputs: Outputs = self.net(x_B1HW, sex_B1)
        maps = zip(self.adapters, outputs.features, strict=True) if len(self.adapters) else ()
        return replace(outputs, adapted=tuple(adapt(f) for adapt, f in maps))


def distillation(
    student: Outputs, teacher: Outputs, batch: Batch, weights: Mapping[str, float]
) -> dict[str, Tensor]:
    """Each term as ``term/NAME/raw`` and ``term/NAME/weighted``; ``distill`` is the sum of the weighted."""
    parts: dict[str, Tensor] = {}
    total = student.logits_BK.new_zeros(())
    for name, weight in weights.items():
        raw = TERMS[name](student, teacher, batch)
        parts[f"term/{name}/raw"], parts[f"term/{name}/weighted"] = raw, weight * raw
        total = total + weight * raw
    return {**parts, "distill": total}


def _kl(logits_t: Tensor, logits_s: Tensor) -> Tensor:
    log_t, log_s = logits_t.detach().float().log_softmax(1), logits_s.float().log_softmax(1)
    return F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")


def _resized(map_s: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    is_same = map_s.shape[2:] == like.shape[2:]
    return map_s.float() if is_same else F.adaptive_avg_pool2d(map_s.float(), (height, width))


def _standardised(map_BChw: Tensor) -> Tensor:
    x = map_BChw.float()
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()
