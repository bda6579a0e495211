"""Terms on trunk maps [B, C, h, w] and on their spatial means, the embeddings [B, C]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.batch import Batch
from engine.models.network import Outputs

RKD_ANGLE = 2.0
"""Weight of angles against distances, as 50 to 25 in the paper."""
_EPS = 1e-6


def hint(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """MSE(phi(F_s), F_t) on standardised maps, mean over taps (FitNets, arXiv 1412.6550).

    Each channel of both maps is standardised over batch and space, so that taps weigh alike.
    """
    losses = [
        F.mse_loss(_standardised(resized(f_s, f_t)), _standardised(f_t.detach()))
        for f_s, f_t in zip(student.adapted, teacher.features, strict=True)
    ]
    return torch.stack(losses).mean()


def at(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """|q(F_s) - q(F_t)|^2, q the unit vector of the mean square over channels; mean over taps.

    Attention transfer, arXiv 1612.03928.
    """
    losses = [
        (_energy(resized(f_s, f_t)) - _energy(f_t.detach())).square().sum(1).mean()
        for f_s, f_t in zip(student.features, teacher.features, strict=True)
    ]
    return torch.stack(losses).mean()


def rkd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Huber of normalised distances and of angles between the embeddings of a batch (arXiv 1904.05068)."""
    e_s, e_t = student.embedding_BC, teacher.embedding_BC
    apart_s, apart_t = e_s[None] - e_s[:, None], (e_t[None] - e_t[:, None]).detach()
    distances = F.smooth_l1_loss(_distances(apart_s), _distances(apart_t))
    return distances + RKD_ANGLE * F.smooth_l1_loss(_angles(apart_s), _angles(apart_t))


def resized(map_s: Tensor, like: Tensor) -> Tensor:
    """``map_s`` [B, C, h, w] in float32, averaged to the height and width of ``like``."""
    height, width = like.shape[2:]
    is_same = map_s.shape[2:] == like.shape[2:]
    return map_s.float() if is_same else F.adaptive_avg_pool2d(map_s.float(), (height, width))


def _standardised(map_BChw: Tensor) -> Tensor:
    x = map_BChw.float()
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()


def _energy(map_BChw: Tensor) -> Tensor:
    return F.normalize(map_BChw.float().square().mean(1).flatten(1), dim=1, eps=_EPS)


def _distances(apart_BBC: Tensor) -> Tensor:
    """Pairwise distances [B, B] over their mean; a pair of equal embeddings is at zero, without gradient."""
    squared = apart_BBC.square().sum(2)
    distance = torch.where(squared > 0, squared, 1.0).sqrt() * (squared > 0)
    return distance / (distance.sum() / (squared > 0).sum().clamp_min(1)).clamp_min(_EPS)


def _angles(apart_BBC: Tensor) -> Tensor:
    """Cosine [B, B, B] of the angle at each embedding between each two others."""
    unit = F.normalize(apart_BBC, dim=2, eps=_EPS)
    return torch.bmm(unit, unit.transpose(1, 2))
