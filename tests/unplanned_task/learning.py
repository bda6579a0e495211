"""How the grade is learnt: cross-entropy over four grades; the teacher sees the box alone.

Legend: B batch, N samples, V views, K grades, h, w trunk grid.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import roi_align

from engine.distillation.weighted_terms import with_terms
from engine.evaluation.answer import Facts, Raw
from engine.evaluation.held_out import HeldOut
from engine.models.batch import Batch
from engine.models.network import ModelFacts, Network, Outputs
from engine.training.learning import Labels, Learning, Parameter, Targets, Truth, Weights
from tests.unplanned_task.answer import GRADES, entropy, expected
from tests.unplanned_task.task import JOINT

LOGITS = "logits"
TEMPERATURES = (0.5, 1.0, 2.0, 4.0)


class Deployed(nn.Module):
    """The graph that is exported: image and covariates to probabilities, evidence and embedding."""

    def __init__(self, net: Network, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature

    def forward(self, image: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.net(image, covariates)
        p_BK = (outputs.logits_BK / self.temperature).softmax(1)
        map_Bhw = (outputs.class_maps_BKhw * p_BK[:, :, None, None]).sum(1).relu()
        shown_Bhw = map_Bhw / map_Bhw.amax((1, 2), keepdim=True).clamp_min(1e-6)
        return p_BK, shown_Bhw, outputs.embedding_BC


def network(facts: ModelFacts) -> Network:
    return Network(replace(facts, num_bins=GRADES))


def objective(student: Outputs, teacher: Outputs | None, batch: Batch, weights: Weights) -> dict[str, Tensor]:
    grade_B = batch.truth["grade"].long()
    smoothing = weights.task["smoothing"]
    parts = {"task": F.cross_entropy(student.logits_BK.float(), grade_B, label_smoothing=smoothing)}
    return with_terms(parts, student, teacher, batch, weights.terms)


def box_alone(batch: Batch) -> Batch:
    """The box of each sample, as augmentation moved it, over the whole view; without one, all of the view."""
    count, _, height, width = batch.x_BVHW.shape
    boxes_B4 = torch.stack([batch.truth[name] for name in JOINT.columns], 1)
    is_known_B = boxes_B4.isfinite().all(1)
    moved_B4 = boxes_B4.nan_to_num(0.0)
    if batch.warp is not None:
        moved_B4 = batch.warp.boxes(moved_B4[:, None].cpu())[:, 0].to(boxes_B4)
    whole_4 = torch.tensor([-0.5, -0.5, width - 0.5, height - 0.5]).to(boxes_B4)
    chosen_B4 = torch.where(is_known_B[:, None], moved_B4, whole_4)
    number_B1 = torch.arange(count).to(boxes_B4)[:, None]
    cut_BVHW = roi_align(batch.x_BVHW, torch.cat([number_B1, chosen_B4], 1), (height, width), aligned=False)
    return replace(batch, x_BVHW=cut_BVHW)


def targets(truth: Truth, is_test_N: NDArray[np.bool_], learns_from: Labels) -> Targets:
    return Targets(columns=truth, is_labelled_N=np.isfinite(truth["grade"]))


def kept(outputs: Outputs) -> dict[str, Tensor]:
    return {LOGITS: outputs.logits_BK.float()}


def probabilities(raw: Raw, temperature: float) -> NDArray[np.float32]:
    p_NK: NDArray[np.float32] = (torch.from_numpy(raw[LOGITS]) / temperature).softmax(1).numpy()
    return p_NK


def graph_outputs(raw: Raw, calibration: Facts) -> Raw:
    return {"probabilities": probabilities(raw, calibration["temperature"])}


def calibrate(held: HeldOut) -> Facts:
    """The temperature of a few that the truth of the validation split is likeliest at."""
    place_N1 = held.truth["grade"].astype(int)[:, None]

    def surprise(temperature: float) -> float:
        p_N1 = np.take_along_axis(probabilities(held.raw, temperature), place_N1, 1)
        return float(-np.log(np.maximum(p_N1, 1e-12)).mean())

    best = min(TEMPERATURES, key=surprise)
    p_NK = probabilities(held.raw, best)
    value_N, doubt_N = expected(p_NK), entropy(p_NK)
    tenths = np.linspace(0, 1, 11)
    return {
        "instances": len(p_NK),
        "temperature": best,
        "max_doubt": float(np.log(GRADES)),
        "validation_value": np.quantile(value_N, tenths).tolist(),
        "validation_doubt": np.quantile(doubt_N, tenths).tolist(),
    }


def error(raw: Raw, truth: Truth) -> NDArray[np.float32]:
    return np.abs(expected(probabilities(raw, 1.0)) - truth["grade"]).astype(np.float32)


def stratum(truth: Truth) -> NDArray[np.int64]:
    return truth["grade"].astype(np.int64)


LEARNING = Learning(
    network=network,
    objective=objective,
    deployed=lambda net, calibration: Deployed(net, calibration["temperature"]),
    kept=kept,
    graph_outputs=graph_outputs,
    calibrate=calibrate,
    error=error,
    parameters={
        "smoothing": Parameter(default=0.0, low=0.0, high=0.5, meaning="Share of a label on all grades.")
    },
    targets=targets,
    teacher_view=box_alone,
    stratum=stratum,
)
