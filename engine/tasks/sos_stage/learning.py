"""How the stage is learnt: cross-entropy with soft ordinal labels, and where the student may look.

Legend: B batch, N samples, K stages, h, w grid of the class maps.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.distillation.terms.maps import attention_of
from engine.distillation.weighted_terms import with_terms
from engine.evaluation.answer import Facts, Raw
from engine.evaluation.conformal import ABSTAIN_COVERAGE, conformal_quantile, deciles
from engine.evaluation.held_out import HeldOut
from engine.models.batch import Batch
from engine.models.grad_cam import attention
from engine.models.network import Network, Outputs
from engine.tasks.sos_stage.answer import STAGES, entropy, expected, mass_until
from engine.tasks.sos_stage.labels import REGION, TRUTH
from engine.tasks.sos_stage.network import stage_network
from engine.training.learning import Labels, Learning, Parameter, Targets, Truth, Weights

LOGITS = "logits"
_TEMPERATURES = np.geomspace(0.25, 8.0, 41)
_SET_LEVEL = 0.9
_LEAST = 1e-12


class Deployed(nn.Module):
    """The graph that is exported: image and covariates to probabilities, attention and embedding."""

    def __init__(self, net: Network, temperature: float) -> None:
        """Wrap a trained network; ``temperature`` divides the logits."""
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, image: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, V, H, W] in [0, 1] and [B, Q] to p [B, K], attention [B, h, w] in [0, 1], embedding [B, C]."""
        outputs = self.net(image, covariates)
        p_BK = (outputs.logits_BK / self.temperature).softmax(1)
        map_Bhw = attention(outputs.logits_BK, outputs.class_maps_BKhw)
        shown_Bhw = map_Bhw / map_Bhw.amax((1, 2), keepdim=True).clamp_min(1e-6)
        return p_BK, shown_Bhw, outputs.embedding_BC


def objective(student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    """Cross-entropy against soft ordinal labels, the attention outside of the box, and weighted terms."""
    aim_BK = soft_labels(batch.truth[TRUTH.name], weights.task["spread"])
    cross_entropy = -(aim_BK * student.logits_BK.float().log_softmax(1)).sum(1).mean()
    outside = outside_share(student, batch)
    task = cross_entropy + weights.task["outside"] * outside
    parts = {"cross_entropy": cross_entropy, "outside": outside, "task": task}
    return with_terms(parts, student, teacher, batch, weights.terms)


def soft_labels(stage_B: Tensor, spread: float) -> Tensor:
    """exp(-|k - y| / spread) over the stages k, made to add up to 1 [B, K]; spread 0 is one-hot."""
    apart_BK = (torch.arange(STAGES, device=stage_B.device)[None] - stage_B[:, None]).abs()
    if spread == 0:
        return (apart_BK == 0).float()
    return (-apart_BK / spread).softmax(1)


def outside_share(student: Outputs, batch: Batch) -> Tensor:
    """sum(M (1 - box)) / sum(M): the share of the attention M that lies outside of the box; mean over B.

    Samples without a box, and dead maps, are left out.
    """
    map_Bhw = attention_of(student)
    inside_Bhw, is_known_B = box_cells(batch, (map_Bhw.shape[1], map_Bhw.shape[2]))
    whole_B = map_Bhw.sum((1, 2))
    is_counted_B = is_known_B & (whole_B > 0)
    share_B = (map_Bhw * (1 - inside_Bhw)).sum((1, 2)) / whole_B.clamp_min(1e-6)
    return (share_B * is_counted_B).sum() / is_counted_B.sum().clamp_min(1)


def box_cells(batch: Batch, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How much of each cell of a grid over the view lies in the box [B, h, w], and whether there is one [B].

    The box is where augmentation moved it to.
    """
    height, width = batch.x_BVHW.shape[2:]
    boxes_B4 = torch.stack([batch.truth[name] for name in REGION.columns], 1)
    is_known_B = boxes_B4.isfinite().all(1)
    boxes_B4 = boxes_B4.nan_to_num(0.0)
    if batch.warp is not None:
        boxes_B4 = batch.warp.boxes(boxes_B4[:, None].cpu())[:, 0].to(boxes_B4)
    rows_Bh, columns_Bw = (
        _covered(boxes_B4[:, side] + 0.5, boxes_B4[:, side + 2] + 0.5, pixels / cells, cells)
        for side, pixels, cells in ((1, height, grid[0]), (0, width, grid[1]))
    )
    return rows_Bh[:, :, None] * columns_Bw[:, None], is_known_B


def _covered(low_B: Tensor, high_B: Tensor, pixels: float, cells: int) -> Tensor:
    """Share [B, cells] of each cell of ``pixels`` pixels between two edges, counted from the first edge."""
    start = torch.arange(cells, device=low_B.device)[None] * pixels
    overlap = torch.minimum(high_B[:, None], start + pixels) - torch.maximum(low_B[:, None], start)
    return overlap.clamp_min(0) / pixels


def targets(truth: Truth, is_test_N: NDArray[np.bool_], learns_from: Labels) -> Targets:
    """The stage; a box is wanted, not needed."""
    return Targets(columns=truth, is_labelled_N=np.isfinite(truth[TRUTH.name]))


def kept(outputs: Outputs) -> dict[str, Tensor]:
    """The logits [B, K], float32."""
    return {LOGITS: outputs.logits_BK.float()}


def graph_outputs(raw: Raw, calibration: Facts) -> Raw:
    """Probabilities [N, K] at the calibrated temperature."""
    return {"probabilities": probabilities(raw, calibration["temperature"])}


def probabilities(raw: Raw, temperature: float) -> NDArray[np.float32]:
    """Of logits that were kept [N, K]."""
    p_NK: NDArray[np.float32] = (torch.from_numpy(raw[LOGITS]) / temperature).softmax(1).numpy()
    return p_NK


def calibrate(held: HeldOut) -> Facts:
    """Temperature of least negative log likelihood, and the conformal mass of a 90 % set of stages."""
    truth_N = held.truth[TRUTH.name].astype(np.int64)

    def negative_log_likelihood(temperature: float) -> float:
        p_N = probabilities(held.raw, temperature)[np.arange(len(truth_N)), truth_N]
        return float(-np.log(np.maximum(p_N.astype(np.float64), _LEAST)).mean())

    temperature = float(min(_TEMPERATURES, key=negative_log_likelihood))
    p_NK = probabilities(held.raw, temperature)
    mass_N = np.array([mass_until(p_K, stage) for p_K, stage in zip(p_NK, truth_N.tolist(), strict=True)])
    doubt_N = entropy(p_NK)
    return {
        "instances": len(p_NK),
        "temperature": temperature,
        "set_mass": conformal_quantile(mass_N, _SET_LEVEL),
        "max_doubt": conformal_quantile(doubt_N.astype(np.float64), ABSTAIN_COVERAGE),
        "validation_value": list(deciles(expected(p_NK))),
        "validation_doubt": list(deciles(doubt_N)),
    }


def error(raw: Raw, truth: Truth) -> NDArray[np.float32]:
    """Stages [N] between the expected and the true one."""
    apart_N: NDArray[np.float32] = np.abs(expected(probabilities(raw, 1.0)) - truth[TRUTH.name])
    return apart_N.astype(np.float32)


def stratum(truth: Truth) -> NDArray[np.int64]:
    """The stage [N]."""
    return truth[TRUTH.name].astype(np.int64)


STAGE_LEARNING = Learning(
    network=stage_network,
    objective=objective,
    deployed=lambda net, calibration: Deployed(net, calibration["temperature"]),
    kept=kept,
    graph_outputs=graph_outputs,
    calibrate=calibrate,
    error=error,
    parameters={
        "spread": Parameter(
            default=0.5, low=0.0, high=math.inf,
            meaning="How far a label reaches to its neighbours, in stages; 0 is plain cross-entropy.",
        ),
        "outside": Parameter(
            default=0.0, low=0.0, high=math.inf,
            meaning="Weight of the share of the attention that lies outside of the box.",
        ),
    },
    targets=targets,
    stratum=stratum,
)  # fmt: skip
