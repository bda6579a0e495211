"""Where a network reads its prediction off, at any stage of its trunk: the map that regions are found on.

Legend: B batch, V views, Q covariates, K bins, C channels, h, w grid of the stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.grad_cam import attention_target
from engine.models.network import Network

STAGE = -2
"""The second-last stage, of stride 16: at 112 pixels it has 7 x 7 cells where the last has 4 x 4, on which no
carpal region can be distinguished from the hand (benchmarks/attention_boxes.py)."""


def class_map(net: Network, x_BVHW: Tensor, covariates_BQ: Tensor, *, stage: int = STAGE) -> Tensor:
    """The evidence for the prediction in each cell of a stage, [B, h, w] >= 0.

    relu(sum over channels of F * dS/dF) with S of ``grad_cam.attention_target`` (HiResCAM, arXiv 2011.08891).
    Grad-CAM weighs with means of the gradient over the whole stage; this stays true where the gradient varies
    over the image, as it does at all stages but the last.
    """
    net.eval()
    with torch.enable_grad():
        outputs = net(x_BVHW.detach().requires_grad_(), covariates_BQ)
        features_BChw = outputs.features[stage]
        (slope_BChw,) = torch.autograd.grad(attention_target(outputs.logits_BK).sum(), features_BChw)
    evidence_Bhw: Tensor = (features_BChw.detach().float() * slope_BChw.float()).sum(1)
    return evidence_Bhw.relu()
