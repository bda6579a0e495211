"""A timm trunk with a dense head, and what every model returns.

Legend: B batch, V views, Q covariate columns, C channels, K bins, H, W input, h, w trunk grid.
The only door to timm.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from engine.errors import BundleError, MissingDependencyError, TrainingError, UnknownNameError, UsageError
from engine.models.ordered_bins import NUM_BINS, regression_slopes

Fusion = Literal["channel_stack", "late"]
Head = Literal["distribution", "regression"]

_RGB = 3
_TRUNK = "trunk."
_COVARIATE_LAYER = "covariate_scale_shift.weight"
_GATE_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Everything needed to rebuild a model before its weights are loaded.

    ``covariates`` are the names of what it takes beside the image, ``covariate_columns`` the columns of
    each. The ``num_views`` images of a sample are either the input channels
    of one pass (``channel_stack``, as in arXiv 2006.00202), or go through one trunk each on its own, and a
    gate weighs what it finds (``late``). ``head`` is a distribution over the bins, or plain ``regression``.
    Only the first ``stages`` of the trunk are kept, one a halving of the grid; 0 keeps all.
    """

    backbone: str
    covariates: tuple[str, ...] = ()
    covariate_columns: tuple[int, ...] = ()
    num_views: int = 1
    fusion: Fusion = "late"
    head: Head = "distribution"
    stages: int = 0
    num_bins: int = NUM_BINS
    mean: float = 0.5
    sd: float = 0.5

    def facts(self) -> dict[str, Any]:
        """JSON-able facts; ``load_model`` reads them back."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model returns.

    ``dense_BKhw`` are the class maps of a dense head, without its bias: their spatial mean and the bias
    are the logits; None for another head. ``features`` are trunk maps [B, C, h, w], the last one deepest;
    ``adapted`` are the student's maps brought to the teacher's channels (training only). The last two are
    of a teacher whose outputs were recorded: its ``attention_Bhw`` and ``pooled_BC`` without the maps
    that they were made from. ``local_BKhw`` is what each place says by itself, where the class maps also hold
    how much the pooling counts it.
    """

    logits_BK: Tensor
    dense_BKhw: Tensor | None
    features: tuple[Tensor, ...]
    adapted: tuple[Tensor, ...] = ()
    attention_Bhw: Tensor | None = None
    pooled_BC: Tensor | None = None
    local_BKhw: Tensor | None = None

    @property
    def class_maps_BKhw(self) -> Tensor:
        """The class maps of a dense head.

        Raises:
            TrainingError: the head is another one.
        """
        if self.dense_BKhw is None:
            raise TrainingError("a network without a dense head has no class maps")
        return self.dense_BKhw

    @property
    def embedding_BC(self) -> Tensor:
        """The spatial mean of the deepest maps, float32."""
        if self.pooled_BC is not None:
            return self.pooled_BC
        return self.features[-1].float().mean((2, 3))


def require_backbone(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        UnknownNameError: carries the nearest name.
    """
    if not timm.is_model(name):
        raise UnknownNameError("backbone", name, timm.list_models())


def _taps(facts: ModelFacts) -> tuple[int, int]:
    """The places of the two deepest maps among those that timm's trunk can give."""
    if not facts.stages:
        return -2, -1
    whole: Any = timm.create_model(facts.backbone, features_only=True)
    most = len(whole.feature_info)
    if not 2 <= facts.stages <= most:  # noqa: PLR2004
        raise UsageError(f"stages is 0 or 2 to {most} with {facts.backbone}, not {facts.stages}")
    return facts.stages - 2, facts.stages - 1


def _cut(trunk: nn.Module) -> None:
    """Drop the blocks after the deepest map: timm does, but for its networks of numbered blocks."""
    feature_info: Any = trunk.feature_info
    name, _, place = feature_info.module_name()[-1].partition(".")
    if isinstance(blocks := getattr(trunk, name, None), nn.Sequential) and place.isdigit():
        setattr(trunk, name, blocks[: int(place) + 1])


class Gate(nn.Module):
    """Gated attention over views: softmax over V of w (tanh(A e) * sigmoid(B e)) (Ilse, arXiv 1802.04712)."""

    def __init__(self, channels: int) -> None:
        """For embeddings of ``channels``; it begins by weighing all views alike."""
        super().__init__()
        self.content = nn.Linear(channels, _GATE_WIDTH)
        self.open = nn.Linear(channels, _GATE_WIDTH)
        self.weigh = nn.Linear(_GATE_WIDTH, 1)
        nn.init.zeros_(self.weigh.weight)

    def forward(self, embedding_BVC: Tensor) -> Tensor:
        """Weights [B, V] of the views of each sample, adding up to 1."""
        gated = self.content(embedding_BVC).tanh() * self.open(embedding_BVC).sigmoid()
        weights_BV: Tensor = self.weigh(gated)[..., 0].softmax(1)
        return weights_BV


class Network(nn.Module):
    """Trunk, norm, covariates by feature-wise modulation, then a 1x1 convolution *before* pooling.

    The order makes Grad-CAM a closed form of first-order gradients (methods: dense head). With late fusion
    the maps of the views are laid side by side, each weighed by its gate, so that their spatial mean is the
    gated sum of the views' pooled embeddings: what holds for one view holds for several.
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
            facts.backbone,
            pretrained=False,
            in_chans=1 if facts.fusion == "late" else facts.num_views,
            features_only=True,
            out_indices=_taps(facts),
        )
        _cut(self.trunk)
        feature_info: Any = self.trunk.feature_info
        self.channels: tuple[int, ...] = tuple(feature_info.channels())
        self.norm = nn.BatchNorm2d(self.channels[-1])
        self.covariate_scale_shift = _scale_shift(sum(facts.covariate_columns), self.channels[-1])
        self.classify = nn.Conv2d(self.channels[-1], facts.num_bins if facts.head == "distribution" else 1, 1)
        self.gate = Gate(self.channels[-1]) if self.is_late else None

    def forward(self, x_BVHW: Tensor, covariates_BQ: Tensor) -> Outputs:
        """Images in [0, 1] and covariates to Outputs."""
        num_views = self.facts.num_views
        if self.is_late:
            x_BVHW = x_BVHW.flatten(0, 1)[:, None]
            covariates_BQ = covariates_BQ.repeat_interleave(num_views, 0)
        features: tuple[Tensor, ...] = tuple(self.trunk((x_BVHW - self.facts.mean) / self.facts.sd))
        deep = self.norm(features[-1])
        if self.covariate_scale_shift is not None:
            scale_BC, shift_BC = self.covariate_scale_shift(covariates_BQ).chunk(2, dim=1)
            deep = deep * (1 + scale_BC[:, :, None, None]) + shift_BC[:, :, None, None]
        if self.gate is not None:
            weights_BV = self.gate(deep.mean((2, 3)).reshape(-1, num_views, deep.shape[1]))
            deep = _side_by_side(deep * num_views * weights_BV.flatten()[:, None, None, None], num_views)
            features = tuple(_side_by_side(maps, num_views) for maps in features)
        dense_BKhw, bias_K = self._dense(deep)
        return Outputs(dense_BKhw.float().mean((2, 3)) + bias_K, dense_BKhw, features)

    @property
    def is_late(self) -> bool:
        """Whether several views go through the trunk one by one."""
        return self.facts.fusion == "late" and self.facts.num_views > 1

    def _dense(self, deep_BChw: Tensor) -> tuple[Tensor, Tensor]:
        """Class maps without bias [B, K, h, w], and the bias [K]."""
        dense, bias = conv2d(deep_BChw, self.classify.weight), self.classify.bias
        assert bias is not None
        if self.facts.head == "distribution":
            return dense, bias
        slopes_K, offsets_K = regression_slopes(self.facts.num_bins, dense.device)
        return dense.float() * slopes_K[:, None, None], slopes_K * bias + offsets_K


def _scale_shift(columns: int, channels: int) -> nn.Linear | None:
    """Covariates to a scale and a shift of each channel, at first without effect; None without covariates."""
    if not columns:
        return None
    layer = nn.Linear(columns, 2 * channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _side_by_side(maps: Tensor, num_views: int) -> Tensor:
    """Maps [B * V, C, h, w] of several views as [B, C, h, V * w]."""
    return torch.cat(maps.reshape(-1, num_views, *maps.shape[1:]).unbind(1), dim=3)


def example_inputs(facts: ModelFacts, count: int, size_HW: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Noise [B, V, H, W] and covariates [B, Q] of zeros, to trace or time a network."""
    images_BVHW = torch.rand(count, facts.num_views, *size_HW)
    return images_BVHW, torch.zeros(count, sum(facts.covariate_columns))


def num_parameters(model: nn.Module) -> int:
    """Parameters that are deployed."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, path)


def load_model(network: Callable[[ModelFacts], Network], facts: Mapping[str, Any], path: Path) -> Network:
    """Rebuild a model in eval mode: ``network`` of its facts, with safetensors weights.

    Raises:
        BundleError: the facts are not ours, the file is absent, or its tensors do not fit the facts.
    """
    try:
        listed = {name: tuple(facts[name]) for name in ("covariates", "covariate_columns")}
        known = ModelFacts(**{**facts, **listed})
    except (KeyError, TypeError) as error:
        raise BundleError(f"these are no facts of a model of this release ({error}): train again") from error
    model = network(known)
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} does not hold the weights of {model.facts.backbone}: {error}") from error
    return model.eval()


def load_start(model: Network, path: Path) -> None:
    """Start from a safetensors file: a run's own weights whole, or the trunk alone.

    If the run took the first covariates of this network only, their weights are copied and the remaining
    covariates start at zero. If it took others, all weights but those of the covariate layer are copied. A
    run that differs in anything else, such as its head, and a timm checkpoint give the trunk only.
    A first convolution over RGB becomes one over grey by summing its weights, so a grey image gives what
    its RGB copy gave; over several views, the same shared out to them.

    Raises:
        BundleError: the file cannot be read, or does not hold every tensor of this trunk.
    """
    try:
        given = safetensors.torch.load_file(path)
        whole, own = model.state_dict(), model.trunk.state_dict()
        same = {n: value for n, value in given.items() if n in whole and value.shape == whole[n].shape}
        if given.keys() == whole.keys() == same.keys():
            model.load_state_dict(same)
            return
        if given.keys() == whole.keys() and whole.keys() - same.keys() <= {_COVARIATE_LAYER}:
            covariate_layer = _with_first_covariates(
                given[_COVARIATE_LAYER], whole[_COVARIATE_LAYER], model.facts.covariate_columns
            )
            model.load_state_dict({_COVARIATE_LAYER: covariate_layer, **same})
            return
        if _TRUNK + next(iter(own)) in given:
            given = {name.removeprefix(_TRUNK): value for name, value in given.items()}
        views = (1, model.facts.num_views)
        fitted = {name: _as_views(given[name], like, views) for name, like in own.items()}
        model.trunk.load_state_dict(fitted)
    except (OSError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} does not hold a trunk of {model.facts.backbone}: {error}") from error


def _with_first_covariates(given_PQ: Tensor, like_PQ: Tensor, columns: Sequence[int]) -> Tensor:
    """The weights of a covariate layer, with those of a run that took the first of its covariates only."""
    weights_PQ, given = torch.zeros_like(like_PQ), given_PQ.shape[1]
    if given in {sum(columns[:number]) for number in range(len(columns))}:
        weights_PQ[:, :given] = given_PQ
    return weights_PQ


def _as_views(given: Tensor, like: Tensor, views: tuple[int, ...]) -> Tensor:
    """A first convolution over RGB or grey as one over views: alike for each, its sum as it was."""
    is_first = given.ndim == like.ndim > 1 and given.shape[1] in (1, _RGB) and like.shape[1] in views
    if not is_first or given.shape == like.shape or given.shape[0] != like.shape[0]:
        return given
    return given.sum(1, keepdim=True).expand(-1, like.shape[1], -1, -1) / like.shape[1]


def frozen(model: Network) -> Network:
    """The model as a teacher: eval mode, no gradients."""
    return model.eval().requires_grad_(requires_grad=False)


def channels_last(model: nn.Module) -> nn.Module:
    """The memory layout that convolutions run fastest in."""
    return model.to(memory_format=torch.channels_last)


def compiled(model: Network, backend: str = "inductor") -> None:
    """Let the trunk run through `torch.compile` from now on; names of weights stay as they are.

    Raises:
        MissingDependencyError: the trunk lies on a CPU, and there is no C++ compiler.
    """
    is_cpu = next(model.parameters()).device.type == "cpu"
    if is_cpu and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise MissingDependencyError("compile=true needs a C++ compiler: install g++, or set compile=false")
    # On a GPU the launching of small kernels is what takes the time: recorded in a graph they go at once.
    model.trunk.compile(backend=backend, mode=None if is_cpu or backend != "inductor" else "reduce-overhead")
