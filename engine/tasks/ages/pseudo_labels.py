"""Labels made by other models: what a training aims at, how far it trusts them, and the loss that does.

The knee model learns from what hand models say of the hand film of the same child and day. Where the paper
(DOI 10.1177/23259671261424923) is silent this is a re-implementation from the abstract.
Legend: B batch, K monthly bins, R runs, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.models.batch import Batch
from engine.models.ordered_bins import expectation, kl_to_gaussian

TRUST_MONTHS = 6.0
"""Spread of the models at which a pseudo-label weighs half."""

Labels = Literal["truth", "pseudo", "both"]
"""What a training learns from; the test split is judged against the truth where it is known."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What samples are aimed at: months, and whether they have any; which of them are an expert's."""

    months_N: Floats
    is_labelled_N: Bools
    is_expert_N: Bools


def targets(truth_N: Floats, pseudo_N2: Floats, is_test_N: Bools, labels: Labels) -> Targets:
    """The months that samples are aimed at; labels are NaN where there is none.

    With ``pseudo`` an expert's label counts in the test split alone, as if nobody had read the other films.
    """
    is_read_N = np.isfinite(truth_N)
    mean_N = np.full_like(truth_N, np.nan) if labels == "truth" else pseudo_N2[:, 0]
    is_expert_N = is_read_N & is_test_N if labels == "pseudo" else is_read_N
    months_N = np.where(is_expert_N, truth_N, mean_N).astype(np.float32)
    return Targets(months_N=months_N, is_labelled_N=np.isfinite(months_N), is_expert_N=is_expert_N)


def trust(sd_B: Tensor) -> Tensor:
    """Weight w = 1 / (1 + (s / 6)^2) of pseudo-labels whose makers spread by ``sd_B`` months."""
    return 1 / (1 + (sd_B / TRUST_MONTHS).square())


def pseudo_label_loss(
    logits_BK: Tensor, batch: Batch, *, weight: float, least_sd: float
) -> dict[str, Tensor]:
    """W (|y' - m| + weight KL(N(m, max(s, least_sd)^2) || p)), and |y' - y| where an expert read the film.

    For a sample with an expert's label alone m is that label, with w = 1. Means over the batch: ``task`` is
    the sum, ``mae_months``, ``kl`` (both weighted by w) and ``expert_mae`` are its parts.

    Raises:
        ValueError: the batch carries no pseudo-labels.
    """
    if batch.pseudo_B2 is None or batch.is_expert_B is None:
        raise ValueError("a batch without pseudo-labels has another loss")
    mean_B, sd_B = batch.pseudo_B2.float().unbind(1)
    is_pseudo_B = mean_B.isfinite()
    aim_B = torch.where(is_pseudo_B, mean_B, batch.months_B)
    spread_B = torch.where(is_pseudo_B, sd_B.nan_to_num(0.0), torch.zeros_like(sd_B))
    w_B = trust(spread_B)
    months_B = expectation(logits_BK)
    kl = (w_B * kl_to_gaussian(logits_BK, aim_B, spread_B.clamp_min(least_sd))).mean()
    mae = (w_B * (months_B - aim_B).abs()).mean()
    read_B = (batch.is_expert_B & is_pseudo_B).float()
    expert = (read_B * (months_B - batch.months_B).abs()).mean()
    return {"mae_months": mae, "kl": kl, "expert_mae": expert, "task": mae + weight * kl + expert}


def agreed(months_RN: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean [N] and spread [N] (sd over runs, R - 1 in the denominator; 0 of one run) of R answers each."""
    mean_N = months_RN.mean(0)
    sd_N = months_RN.std(0, ddof=1) if len(months_RN) > 1 else np.zeros_like(mean_N)
    return mean_N.astype(np.float32), sd_N.astype(np.float32)
