"""Age as a distribution over months 1..K, its expectation and spread, and the joint loss.

Source: Chen et al., arXiv 2006.00202 (attention-guided regions and age-distribution learning); the Gaussian
is renormalised because it is cut at both ends. Legend: B batch, K monthly bins (bin k is month k, 1-based).
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 240


def months_of_bins(num_bins: int, device: torch.device | None = None) -> Tensor:
    """Month of each bin, float32 [K]: 1, 2, ... K."""
    return torch.arange(1, num_bins + 1, dtype=torch.float32, device=device)


def expectation(logits_BK: Tensor) -> Tensor:
    """Expected months [B]: sum of k p_k."""
    probabilities_BK = logits_BK.float().softmax(1)
    return probabilities_BK @ months_of_bins(logits_BK.shape[1], logits_BK.device)


def moments(logits_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Expected months [B] and standard deviation in months [B] of the predicted distribution."""
    probabilities_BK = logits_BK.float().softmax(1)
    months_K = months_of_bins(logits_BK.shape[1], logits_BK.device)
    mean_B = probabilities_BK @ months_K
    variance_B = (probabilities_BK * (months_K[None] - mean_B[:, None]).square()).sum(1)
    return mean_B, variance_B.clamp_min(0).sqrt()


def gaussian_target(months_B: Tensor, num_bins: int, delta: float) -> Tensor:
    """Soft label [B, K]: a Gaussian of sd ``delta`` months around the true month, summing to 1."""
    months_K = months_of_bins(num_bins, months_B.device)
    exponent_BK = -(months_K[None] - months_B[:, None]).square() / (2 * delta**2)
    return exponent_BK.softmax(1)


def joint_loss(logits_BK: Tensor, months_B: Tensor, *, weight: float, delta: float) -> dict[str, Tensor]:
    """The loss ``task`` = l_MAE + weight * KL(G || p), and its parts ``mae_months`` and ``kl``; scalars."""
    target_BK = gaussian_target(months_B, logits_BK.shape[1], delta)
    log_p_BK = logits_BK.float().log_softmax(1)
    kl = (target_BK * (target_BK.clamp_min(1e-12).log() - log_p_BK)).sum(1).mean()
    mae = (expectation(logits_BK) - months_B).abs().mean()
    return {"mae_months": mae, "kl": kl, "task": mae + weight * kl}


def attention(dense_BKhw: Tensor) -> Tensor:
    """Where the predicted age is read off: Grad-CAM of sum of p_k z_k with p held fixed, [B, h, w] >= 0.

    With a dense head (logits = spatial mean of dense logits) this Grad-CAM is the class map itself; logits
    are centred over the bins since softmax ignores what all bins share.
    """
    dense = dense_BKhw.float()
    weights_BK = dense.mean((2, 3)).softmax(1).detach()
    centred_BKhw = dense - dense.mean(1, keepdim=True)
    return (weights_BK[:, :, None, None] * centred_BKhw).sum(1).relu()
