"""How skeletal age is learnt: a distribution over monthly bins, its losses, and the graph that is exported.

Age-distribution learning after Chen et al., arXiv 2006.00202. Legend: B batch, V views, K monthly bins,
N samples, h, w trunk grid.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.distillation.weighted_terms import with_terms
from engine.evaluation.answer import Facts, Raw
from engine.evaluation.held_out import HeldOut
from engine.models.batch import Batch
from engine.models.grad_cam import attention
from engine.models.network import Network, Outputs
from engine.models.ordered_bins import joint_loss, moments
from engine.tasks.ages.accuracy import AGE_EDGES_YEARS, PREDICTED
from engine.tasks.ages.calibration import LOGITS, calibration_from_facts, fit_calibration, tempered_sd
from engine.tasks.ages.pseudo_labels import BIN, IS_EXPERT, pseudo_label_loss, targets
from engine.training.learning import Learning, Parameter, Truth, Weights


class Deployed(nn.Module):
    """The graph that is exported: image and covariates to months, sd, attention map and embedding."""

    def __init__(self, net: Network, *, temperature: float = 1.0) -> None:
        """Wrap a trained network; ``temperature`` divides the logits for the sd, and leaves the months."""
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, image: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, V, H, W] in [0, 1] and [B, Q] to months [B], their sd [B], attention [B, h, w] in [0, 1].

        The last one is the embedding [B, C], before the covariates have their say.
        """
        outputs = self.net(image, covariates)
        months_B, _ = moments(outputs.logits_BK)
        _, sd_B = moments(outputs.logits_BK / self.temperature)
        map_Bhw = attention(outputs.logits_BK, outputs.class_maps_BKhw)
        shown_Bhw = map_Bhw / map_Bhw.amax((1, 2), keepdim=True).clamp_min(1e-6)
        return months_B, sd_B, shown_Bhw, outputs.embedding_BC


def objective(student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    """The joint loss, or that of pseudo-labels where the targets hold them, plus weighted terms."""
    kl, delta = weights.task["kl"], weights.task["delta"]
    if IS_EXPERT in batch.truth:
        parts = pseudo_label_loss(student.logits_BK, batch.truth, weight=kl, least_sd=delta)
    else:
        parts = joint_loss(student.logits_BK, batch.truth[BIN], weight=kl, delta=delta)
    return with_terms(parts, student, teacher, batch, weights.terms)


def deployed(net: Network, calibration: Facts) -> Deployed:
    """The graph that is exported, its sd at the calibrated temperature."""
    return Deployed(net, temperature=calibration["temperature"])


def kept(outputs: Outputs) -> dict[str, Tensor]:
    """The logits [B, K], float32."""
    return {LOGITS: outputs.logits_BK.float()}


def graph_outputs(raw: Raw, calibration: Facts) -> Raw:
    """Months [N] and their sd [N] at the calibrated temperature, of logits that were kept."""
    temperature = calibration_from_facts(calibration).temperature
    sd_N = tempered_sd(raw[LOGITS], temperature).astype(np.float32)
    return {"months": _months(raw), "sd_months": sd_N}


def calibrate(held: HeldOut) -> Facts:
    """Temperature, conformal quantiles and linear bias of a validation split with its logits."""
    read = replace(held, predicted={PREDICTED: _months(held.raw)})
    return fit_calibration(read, held.raw[LOGITS]).facts()


def error(raw: Raw, truth: Truth) -> NDArray[np.float32]:
    """Absolute errors [N], months."""
    apart_N: NDArray[np.float32] = np.abs(_months(raw) - truth[BIN])
    return apart_N


def stratum(truth: Truth) -> NDArray[np.int64]:
    """The band of age [N] that the target lies in."""
    edges = 12 * np.array(AGE_EDGES_YEARS[1:])
    return np.searchsorted(edges, truth[BIN].astype(np.float64), side="right").astype(np.int64)


def _months(raw: Raw) -> NDArray[np.float32]:
    mean_N, _ = moments(torch.from_numpy(raw[LOGITS]))
    months_N: NDArray[np.float32] = mean_N.numpy()
    return months_N


AGE_LEARNING = Learning(
    network=Network,
    objective=objective,
    deployed=deployed,
    kept=kept,
    graph_outputs=graph_outputs,
    calibrate=calibrate,
    error=error,
    parameters={
        "kl": Parameter(
            default=10.0,
            low=0.0,
            high=math.inf,
            meaning="lambda of the joint loss. The paper's 0.1 to 1 leaves the predicted sd without meaning: "
            "its absolute error is in months, and its gradient swamps that of the distribution.",
        ),
        "delta": Parameter(
            default=10.0, low=0.5, high=math.inf, meaning="sd of the Gaussian soft label, months."
        ),
    },
    targets=targets,
    stratum=stratum,
)
