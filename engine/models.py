"""A timm trunk with a dense age head, and what every model returns.

Legend: B batch, C channels, K bins, H, W input, h, w trunk grid. The only door to timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from engine.age_distribution import NUM_BINS, attention, moments
from engine.errors import BundleError, UnknownNameError

_RGB = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Everything needed to rebuild a model before its weights are loaded."""

    backbone: str
    num_bins: int = NUM_BINS
    mean: float = 0.5
    sd: float = 0.5

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``ModelFacts(**facts)`` reads them back."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model returns.

    ``logits_BK`` are the spatial mean of ``dense_BKhw``; ``features`` are trunk maps [B, C, h, w], the last
    one deepest; ``adapted`` are the student's maps brought to the teacher's channels (training only).
    """

    logits_BK: Tensor
    dense_BKhw: Tensor
    features: tuple[Tensor, ...]
    adapted: tuple[Tensor, ...] = ()


def require_backbone(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        UnknownNameError: carries the nearest name.
    """
    if not timm.is_model(name):
        raise UnknownNameError("backbone", name, timm.list_models())


class AgeNet(nn.Module):
    """Trunk, sex by feature-wise modulation, then norm and 1x1 convolution *before* pooling.

    The order makes Grad-CAM a closed form of first-order gradients (methods: dense head).
    """

    def __init__(self, facts: ModelFacts) -> None:
        """Build with random weights.

        Raises:
            UnknownNameError: timm has no such backbone.
        """
        super().__init__()
        require_backbone(facts.backbone)
        self.facts = facts
        self.trunk = timm.create_model(
            facts.backbone, pretrained=False, in_chans=1, features_only=True, out_indices=(-2, -1)
        )
        feature_info: Any = self.trunk.feature_info
        self.channels: tuple[int, ...] = tuple(feature_info.channels())
        self.norm = nn.BatchNorm2d(self.channels[-1])
        self.sex_scale_shift = nn.Linear(1, 2 * self.channels[-1])
        self.classify = nn.Conv2d(self.channels[-1], facts.num_bins, 1)
        nn.init.zeros_(self.sex_scale_shift.weight)
        nn.init.zeros_(self.sex_scale_shift.bias)

    def forward(self, x_B1HW: Tensor, sex_B1: Tensor) -> Outputs:
        """Images in [0, 1] and sex (1 male, -1 female, 0 unknown) to Outputs."""
        features: tuple[Tensor, ...] = tuple(self.trunk((x_B1HW - self.facts.mean) / self.facts.sd))
        scale_BC, shift_BC = self.sex_scale_shift(sex_B1).chunk(2, dim=1)
        deep = self.norm(features[-1])
        deep = deep * (1 + scale_BC[:, :, None, None]) + shift_BC[:, :, None, None]
        dense_BKhw = self.classify(deep)
        return Outputs(dense_BKhw.float().mean((2, 3)), dense_BKhw, features)


class Deployed(nn.Module):
    """The graph that is exported: image and sex to months, sd and attention map."""

    def __init__(self, net: AgeNet) -> None:
        """Wrap a trained network."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, sex: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 1, H, W] in [0, 1] and [B, 1] to months [B], their sd [B], attention [B, h, w] in [0, 1]."""
        outputs = self.net(image, sex)
        months_B, sd_B = moments(outputs.logits_BK)
        map_Bhw = attention(outputs.dense_BKhw)
        return months_B, sd_B, map_Bhw / map_Bhw.amax((1, 2), keepdim=True).clamp_min(1e-6)


def num_parameters(model: nn.Module) -> int:
    """Parameters that are deployed."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, path)


def load_model(facts: Mapping[str, Any], path: Path) -> AgeNet:
    """Rebuild a model in eval mode from its facts and safetensors weights.

    Raises:
        BundleError: the facts are not ours, the file is absent, or its tensors do not fit the facts.
    """
    try:
        known = ModelFacts(**facts)
    except TypeError as error:
        raise BundleError(f"these are no facts of a model of this release: {error}") from error
    model = AgeNet(known)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} does not hold the weights of {model.facts.backbone}: {error}") from error
    return model.eval()


def load_start(model: AgeNet, path: Path) -> None:
    """Start from a safetensors file: a run's own weights whole, or of a timm checkpoint the trunk alone.

    A first convolution over RGB becomes one over grey by summing its weights, so a grey image gives what
    its RGB copy gave.

    Raises:
        BundleError: the file cannot be read, or does not hold every tensor of this trunk.
    """
    try:
        given = safetensors.torch.load_file(path)
        if given.keys() == model.state_dict().keys():
            model.load_state_dict(given)
            return
        own = model.trunk.state_dict()
        fitted = {name: _grey(given[name], like) for name, like in own.items()}
        model.trunk.load_state_dict(fitted)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} does not hold a trunk of {model.facts.backbone}: {error}") from error


def _grey(given: Tensor, like: Tensor) -> Tensor:
    is_first = given.ndim == like.ndim > 1 and given.shape[1] == _RGB and like.shape[1] == 1
    return given.sum(1, keepdim=True) if is_first else given


def frozen(model: AgeNet) -> AgeNet:
    """The model as a teacher: eval mode, no gradients."""
    return model.eval().requires_grad_(requires_grad=False)


def channels_last(model: nn.Module) -> nn.Module:
    """The memory layout that convolutions run fastest in."""
    return model.to(memory_format=torch.channels_last)
