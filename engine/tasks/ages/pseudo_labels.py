"""Labels made by other models: what a training aims at, how far it trusts them, and the loss that does.

The knee model learns from what hand models say of the hand film of the same child and day. Where the paper
(DOI 10.1177/23259671261424923) is silent this is a re-implementation from the abstract.
Legend: B batch, K monthly bins, R runs, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.models.ordered_bins import expectation, kl_to_gaussian
from engine.tasks.ages.inputs import BONE_AGE, PSEUDO_COLUMNS
from engine.training.learning import Labels, Targets, Truth

TRUST_MONTHS = 6.0
"""Spread of the models at which a pseudo-label weighs half."""

BIN, IS_EXPERT = "bin", "is_expert"
"""Targets beside the labels: the months aimed at, which are bins, and 1 where an expert read the film."""

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def targets(truth: Truth, is_test_N: Bools, learns_from: Labels) -> Targets:
    """The months that samples are aimed at, by label, and as ``bin``.

    With ``pseudo`` an expert's label counts in the test split alone, as if nobody had read the other films.
    With ``truth`` pseudo-labels count nowhere, and no target tells of them.
    """
    truth_N = truth[BONE_AGE.name]
    none_N = np.full_like(truth_N, np.nan)
    mean_N, sd_N = (truth.get(name, none_N) for name in PSEUDO_COLUMNS)
    is_read_N = np.isfinite(truth_N)
    is_expert_N = is_read_N & is_test_N if learns_from == "pseudo" else is_read_N
    aim_N = none_N if learns_from == "truth" else mean_N
    months_N = np.where(is_expert_N, truth_N, aim_N).astype(np.float32)
    columns = {BONE_AGE.name: months_N, BIN: months_N}
    if learns_from != "truth":
        pseudo = dict(zip(PSEUDO_COLUMNS, (mean_N, sd_N), strict=True))
        columns |= {**pseudo, IS_EXPERT: is_expert_N.astype(np.float32)}
    return Targets(columns=columns, is_labelled_N=np.isfinite(months_N))


def trust(sd_B: Tensor) -> Tensor:
    """Weight w = 1 / (1 + (s / 6)^2) of pseudo-labels whose makers spread by ``sd_B`` months."""
    return 1 / (1 + (sd_B / TRUST_MONTHS).square())


def pseudo_label_loss(
    logits_BK: Tensor, truth: Mapping[str, Tensor], *, weight: float, least_sd: float
) -> dict[str, Tensor]:
    """W (|y' - m| + weight KL(N(m, max(s, least_sd)^2) || p)), and |y' - y| where an expert read the film.

    ``truth`` are the ``targets`` of a batch. For a sample with an expert's label alone m is that label, with
    w = 1. Means over the batch: ``task`` is the sum, ``mae``, ``kl`` (both weighted by w) and ``expert_mae``
    are its parts.
    """
    mean_B, sd_B = (truth[name].float() for name in PSEUDO_COLUMNS)
    true_B = truth[BIN]
    # 1. the aim and its spread: the pseudo-label where there is one, else the expert's reading
    is_pseudo_B = mean_B.isfinite()
    aim_B = torch.where(is_pseudo_B, mean_B, true_B)
    spread_B = torch.where(is_pseudo_B, sd_B.nan_to_num(0.0), torch.zeros_like(sd_B))
    # 2. the joint loss about the aim, weighed by how far the models agree
    w_B = trust(spread_B)
    months_B = expectation(logits_BK)
    kl = (w_B * kl_to_gaussian(logits_BK, aim_B, spread_B.clamp_min(least_sd))).mean()
    mae = (w_B * (months_B - aim_B).abs()).mean()
    # 3. the expert's reading beside the pseudo-label, where a film has both
    read_B = ((truth[IS_EXPERT] > 0) & is_pseudo_B).float()
    expert = (read_B * (months_B - true_B).abs()).mean()
    return {"mae": mae, "kl": kl, "expert_mae": expert, "task": mae + weight * kl + expert}


def agreed(months_RN: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean [N] and spread [N] (sd over runs, R - 1 in the denominator; 0 of one run) of R answers each."""
    mean_N = months_RN.mean(0)
    sd_N = months_RN.std(0, ddof=1) if len(months_RN) > 1 else np.zeros_like(mean_N)
    return mean_N.astype(np.float32), sd_N.astype(np.float32)
