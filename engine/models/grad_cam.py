"""Where a network reads its prediction off: Grad-CAM two ways, and the class map of a stage.

A dense head is linear before its spatial mean, z = mean_ij(W A_ij) + b, so that dz/dA is the same everywhere:
Grad-CAM of a target t is ReLU(sum_k dt/dz_k Z_k) / (h w) with the class maps Z = W A *without* the bias b,
which belongs to no place. It needs gradients of first order only; any other head is differentiated twice.

Source: Selvaraju et al., arXiv 1610.02391; the closed form: methods, Grad-CAM inside a loss.
Legend: B batch, V views, Q covariate columns, K bins, C channels, h, w trunk grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.network import Network

STAGE = -2
"""The second-last stage, of stride 16: at 112 pixels it has 7 x 7 cells where the last has 4 x 4, on which no
carpal region can be distinguished from the hand (benchmarks/attention_boxes.py)."""


def closed_form(dense_BKhw: Tensor, slopes_BK: Tensor) -> Tensor:
    """Grad-CAM [B, h, w] >= 0 of a target with slopes dt/dz_k, from class maps without bias; float32."""
    return evidence(dense_BKhw, slopes_BK) / (dense_BKhw.shape[2] * dense_BKhw.shape[3])


def by_autograd(target_B: Tensor, features_BChw: Tensor, *, create_graph: bool = True) -> Tensor:
    """Grad-CAM [B, h, w] >= 0 of a target at the maps that it was computed from; float32.

    With ``create_graph`` the map can be part of a loss. The head must not be compiled: what `torch.compile`
    makes has no second derivative.
    """
    (gradient,) = torch.autograd.grad(target_B.sum(), features_BChw, create_graph=create_graph)
    weights_BC = gradient.float().mean((2, 3))
    cam: Tensor = (weights_BC[:, :, None, None] * features_BChw.float()).sum(1).relu()
    return cam


def evidence(dense_BKhw: Tensor, slopes_BK: Tensor) -> Tensor:
    """``closed_form`` times h w: on the scale of the logits whatever the grid."""
    return (slopes_BK[:, :, None, None] * dense_BKhw.float()).sum(1).relu()


def attention(logits_BK: Tensor, dense_BKhw: Tensor) -> Tensor:
    """Where the prediction is read off, [B, h, w] >= 0: evidence for sum of p_k z_k with p held fixed.

    The target is less the mean logit, since softmax ignores what all bins share.
    """
    return evidence(dense_BKhw, attention_slopes(logits_BK))


def attention_target(logits_BK: Tensor) -> Tensor:
    """The target [B] of ``attention``: sum of p_k z_k, p held fixed, less the mean logit."""
    return (attention_slopes(logits_BK) * logits_BK.float()).sum(1)


def attention_slopes(logits_BK: Tensor) -> Tensor:
    """p_k - 1/K [B, K], without gradient."""
    return logits_BK.detach().float().softmax(1) - 1 / logits_BK.shape[1]


def class_map(net: Network, x_BVHW: Tensor, covariates_BQ: Tensor, *, stage: int = STAGE) -> Tensor:
    """The evidence for the prediction in each cell of a stage, [B, h, w] >= 0.

    relu(sum over channels of F * dS/dF) with S of ``attention_target`` (HiResCAM, arXiv 2011.08891).
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
