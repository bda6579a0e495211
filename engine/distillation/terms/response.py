"""Terms on what the networks answer: logits [B, K], the distribution over K bins, and its expectation [B].

Those that ask for the truth read ``batch.truth["bin"]`` [B]: the true number on the scale of the bins, from
1, between two bins where it is a fraction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.batch import Batch
from engine.models.network import Outputs
from engine.models.ordered_bins import expectation

BIN = "bin"
KD_TEMPERATURE = 4.0
STANDARDISED_TEMPERATURE = 2.0
DKD_TEMPERATURE, DKD_ALPHA, DKD_BETA = 4.0, 1.0, 8.0
_EPS = 1e-7


def kd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """T^2 KL(softmax(z_t/T) || softmax(z_s/T)), T = 4 (Hinton et al., arXiv 1503.02531)."""
    return _tempered(teacher.logits_BK.detach().float(), student.logits_BK.float(), KD_TEMPERATURE)


def kd_std(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """``kd`` of logits standardised within each sample, T = 2 (Sun et al., arXiv 2403.01427)."""
    z_t, z_s = _standardised(teacher.logits_BK.detach()), _standardised(student.logits_BK)
    return _tempered(z_t, z_s, STANDARDISED_TEMPERATURE)


def dkd(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Decoupled kd: alpha KL(target against rest) + beta KL(within the rest), T = 4 (arXiv 2203.08679).

    The target is the bin nearest to the truth. alpha = 1, beta = 8. Steps as in the paper: softmax at T; the
    binary distribution (target, rest); the distribution within the rest; the two divergences, weighed.
    """
    log_t = (teacher.logits_BK.detach().float() / DKD_TEMPERATURE).log_softmax(1)
    log_s = (student.logits_BK.float() / DKD_TEMPERATURE).log_softmax(1)
    bins = log_t.shape[1]
    target_B1 = (batch.truth[BIN].round().long() - 1).clamp(0, bins - 1)[:, None]
    is_rest_BK = torch.ones_like(log_t, dtype=torch.bool).scatter(1, target_B1, value=False)
    rest_t, rest_s = (log[is_rest_BK].reshape(-1, bins - 1) for log in (log_t, log_s))
    split_t, split_s = (
        torch.cat([log.gather(1, target_B1), rest.logsumexp(1, keepdim=True)], 1)
        for log, rest in ((log_t, rest_t), (log_s, rest_s))
    )
    within = _kl(rest_t.log_softmax(1), rest_s.log_softmax(1))
    return DKD_TEMPERATURE**2 * (DKD_ALPHA * _kl(split_t, split_s) + DKD_BETA * within)


def dist(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """(1 - Pearson over bins) + (1 - Pearson over the batch) of probabilities (DIST, arXiv 2205.10536)."""
    p_t, p_s = teacher.logits_BK.detach().float().softmax(1), student.logits_BK.float().softmax(1)
    return (1 - _pearson(p_s, p_t, 1)).mean() + (1 - _pearson(p_s, p_t, 0)).mean()


def bin_kl(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """KL(p_t || p_s) between the distributions, T = 1."""
    return _tempered(teacher.logits_BK.detach().float(), student.logits_BK.float(), 1.0)


def emd2(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Mean over bins of the squared difference of the cumulative distributions (arXiv 1611.05916).

    Unlike a KL it knows that neighbouring bins are near.
    """
    p_t, p_s = teacher.logits_BK.detach().float().softmax(1), student.logits_BK.float().softmax(1)
    return (p_s - p_t).cumsum(1).square().mean()


def reg(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """SmoothL1 between expectations, in bins, counted only where the student is further from the truth.

    The bound is that of Chen et al., NeurIPS 2017 (teacher-bounded regression).
    """
    mean_s, mean_t = expectation(student.logits_BK), expectation(teacher.logits_BK).detach()
    is_worse = (mean_s - batch.truth[BIN]).abs() > (mean_t - batch.truth[BIN]).abs()
    return (F.smooth_l1_loss(mean_s, mean_t, reduction="none") * is_worse).mean()


def _tempered(logits_t: Tensor, logits_s: Tensor, temperature: float) -> Tensor:
    log_t, log_s = (logits_t / temperature).log_softmax(1), (logits_s / temperature).log_softmax(1)
    return temperature**2 * _kl(log_t, log_s)


def _kl(log_t: Tensor, log_s: Tensor) -> Tensor:
    return F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")


def _standardised(logits_BK: Tensor) -> Tensor:
    z = logits_BK.float()
    variance, mean = torch.var_mean(z, 1, keepdim=True, correction=0)
    return (z - mean) / (variance + _EPS).sqrt()


def _pearson(a_BK: Tensor, b_BK: Tensor, axis: int) -> Tensor:
    a, b = a_BK - a_BK.mean(axis, keepdim=True), b_BK - b_BK.mean(axis, keepdim=True)
    return F.cosine_similarity(a, b, dim=axis, eps=_EPS)
