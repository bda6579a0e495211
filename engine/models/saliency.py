"""Which pixels move the predicted age: gradient maps, SmoothGrad, Grad-CAM of the expectation; a check.

A map that hardly changes when the network's weights are drawn anew shows edges, not what was learnt
(Adebayo et al., arXiv 1810.03292). Legend: B batch, V views, Q covariates, H, W view, h, w trunk grid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.grad_cam import by_autograd
from engine.models.network import AgeNet
from engine.models.ordered_bins import expectation

SMOOTH_DRAWS, SMOOTH_SD = 25, 0.1
_EPS = 1e-12

Saliency = Callable[[AgeNet, Tensor, Tensor], Tensor]


def gradient(net: AgeNet, x_BVHW: Tensor, covariates_BQ: Tensor) -> Tensor:
    """|d months / d x| summed over views, [B, H, W] (Simonyan et al., arXiv 1312.6034)."""
    with torch.enable_grad():
        shown = x_BVHW.detach().clone().requires_grad_()
        months_B = expectation(net(shown, covariates_BQ).logits_BK)
        (slope_BVHW,) = torch.autograd.grad(months_B.sum(), shown)
    return slope_BVHW.abs().sum(1)


def smooth_gradient(
    net: AgeNet, x_BVHW: Tensor, covariates_BQ: Tensor, *, draws: int = SMOOTH_DRAWS, sd: float = SMOOTH_SD
) -> Tensor:
    """Mean of ``gradient`` over noisy copies of the image (SmoothGrad, arXiv 1706.03825), [B, H, W].

    ``sd`` of the noise is relative to each image's range; the noise is the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    range_B = x_BVHW.flatten(1).amax(1) - x_BVHW.flatten(1).amin(1)
    total = torch.zeros_like(x_BVHW[:, 0])
    for _ in range(draws):
        noise = torch.randn(x_BVHW.shape, generator=generator).to(x_BVHW.device)
        total += gradient(net, x_BVHW + sd * range_B[:, None, None, None] * noise, covariates_BQ)
    return total / draws


def expectation_cam(net: AgeNet, x_BVHW: Tensor, covariates_BQ: Tensor) -> Tensor:
    """Grad-CAM of the expected months at the deepest trunk maps, enlarged to the view, [B, H, W] >= 0.

    Where it is bright the maps speak for an older age (Selvaraju et al., arXiv 1610.02391).
    """
    with torch.enable_grad():
        outputs = net(x_BVHW, covariates_BQ)
        months_B = expectation(outputs.logits_BK)
        map_Bhw = by_autograd(months_B, outputs.features[-1], create_graph=False).detach()
    size = (x_BVHW.shape[2], x_BVHW.shape[3])
    return F.interpolate(map_Bhw[:, None], size, mode="bilinear", align_corners=False)[:, 0]


SALIENCIES: dict[str, Saliency] = {
    "gradient": gradient,
    "smooth_gradient": smooth_gradient,
    "expectation_cam": expectation_cam,
}


def randomised(net: AgeNet, *, seed: int = 0) -> AgeNet:
    """A copy whose convolutions and linear layers are drawn anew; the norms keep their figures."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                spread = module.weight.std().clamp_min(_EPS)
                noise = torch.randn(module.weight.shape, generator=generator).to(module.weight.device)
                module.weight.copy_(noise * spread)
    return other


def map_correlation(a_BHW: Tensor, b_BHW: Tensor) -> Tensor:
    """Spearman correlation [B] of two maps over their pixels; 0 for a flat map."""
    ranks_a, ranks_b = (_ranks(maps.flatten(1)) for maps in (a_BHW, b_BHW))
    scale_B = (ranks_a.norm(dim=1) * ranks_b.norm(dim=1)).clamp_min(_EPS)
    correlation_B: Tensor = (ranks_a * ranks_b).sum(1) / scale_B
    return correlation_B


def randomisation_check(
    net: AgeNet, x_BVHW: Tensor, covariates_BQ: Tensor, saliency: Saliency, *, seed: int = 0
) -> Tensor:
    """Correlation [B] of a map with that of random weights: near 1, the map shows nothing that was learnt."""
    own = saliency(net, x_BVHW, covariates_BQ)
    return map_correlation(own, saliency(randomised(net, seed=seed), x_BVHW, covariates_BQ))


def _ranks(values_BP: Tensor) -> Tensor:
    """Centred ranks [B, P]; equal values share their mean rank."""
    ordered, _ = values_BP.sort(1)
    low = torch.searchsorted(ordered.contiguous(), values_BP.contiguous(), right=False)
    high = torch.searchsorted(ordered.contiguous(), values_BP.contiguous(), right=True)
    ranks = (low + high).double() / 2
    return ranks - ranks.mean(1, keepdim=True)
