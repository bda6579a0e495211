"""A number as a distribution over ordered bins 1..K, its expectation and spread, and the joint loss.

Source: Chen et al., arXiv 2006.00202 (attention-guided regions and age-distribution learning), where a bin is
a month; the Gaussian is renormalised because it is cut at both ends. All is in bins: bin k stands for the
number k, counted from 1. Legend: B batch, K bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 240
REGRESSION_SD, REGRESSION_UNIT = 10.0, 60.0


def bin_numbers(num_bins: int, device: torch.device | None = None) -> Tensor:
    """The number that each bin stands for, float32 [K]: 1, 2, ... K."""
    return torch.arange(1, num_bins + 1, dtype=torch.float32, device=device)


def expectation(logits_BK: Tensor) -> Tensor:
    """Expected number [B]: sum of k p_k."""
    probabilities_BK = logits_BK.float().softmax(1)
    return probabilities_BK @ bin_numbers(logits_BK.shape[1], logits_BK.device)


def moments(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Expectation [B] and standard deviation [B] of the predicted distribution."""
    probabilities_BK = logits_BK.float().softmax(1)
    number_K = bin_numbers(logits_BK.shape[1], logits_BK.device)
    mean_B = probabilities_BK @ number_K
    variance_B = (probabilities_BK * (number_K[None] - mean_B[:, None]).square()).sum(1)
    return mean_B, variance_B.clamp_min(0).sqrt()


def regression_slopes(num_bins: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """How a regression of one output z becomes logits a_k z + b_k, as slopes a [K] and offsets b [K].

    The distribution is a Gaussian of fixed sd around m + 60 z, m the middle of the bins: its exponent
    is linear in z but for what all bins share. So plain regression is a dense head whose bins have one weight
    vector between them, and all that holds for the head of a distribution holds for it.
    """
    number_K = bin_numbers(num_bins, device)
    apart_K = number_K - number_K.mean()
    precision = 1 / REGRESSION_SD**2
    return apart_K * REGRESSION_UNIT * precision, -apart_K.square() * precision / 2


def gaussian_target(true_B: Tensor, num_bins: int, delta: Tensor | float) -> Tensor:
    """Soft label [B, K]: a Gaussian of sd ``delta`` (one, or [B]) around the true number, summing to 1."""
    number_K = bin_numbers(num_bins, true_B.device)
    sd_B = torch.as_tensor(delta, dtype=torch.float32, device=true_B.device).expand(len(true_B))
    exponent_BK = -(number_K[None] - true_B[:, None]).square() / (2 * sd_B[:, None] ** 2)
    return exponent_BK.softmax(1)


def kl_to_gaussian(logits_BK: Tensor, true_B: Tensor, sd_B: Tensor | float) -> Tensor:
    """KL(G || p) [B] of the soft label around ``true_B``, whose sd may differ by sample."""
    target_BK = gaussian_target(true_B, logits_BK.shape[1], sd_B)
    log_p_BK = logits_BK.float().log_softmax(1)
    return (target_BK * (target_BK.clamp_min(1e-12).log() - log_p_BK)).sum(1)


def joint_loss(logits_BK: Tensor, true_B: Tensor, *, weight: float, delta: float) -> dict[str, Tensor]:
    """The loss ``task`` = l_MAE + weight * KL(G || p), and its parts ``mae`` and ``kl``; scalars."""
    kl = kl_to_gaussian(logits_BK, true_B, delta).mean()
    mae = (expectation(logits_BK) - true_B).abs().mean()
    return {"mae": mae, "kl": kl, "task": mae + weight * kl}
