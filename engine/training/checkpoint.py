"""The state of a training, and its checkpoint: safetensors and JSON, nothing pickled."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from engine.distillation.terms import TERMS
from engine.distillation.weighted_terms import Trainee
from engine.errors import TrainingError
from engine.models.network import ModelFacts, Network, channels_last, load_start, save_weights
from engine.store.files import read_json, write_json
from engine.training.recipe import Recipe

_BEST_NAME = "best.safetensors"


@dataclass(slots=True, kw_only=True)
class State:
    """What training changes: network in training, its moving average, optimiser, epochs and steps done.

    With a recipe's patience also the average of the epoch with the least validation error so far.
    """

    trainee: Trainee
    ema: Network
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0
    best: Network | None = None
    best_error: float = math.inf
    best_epoch: int = 0

    @property
    def chosen(self) -> Network:
        """The network that a run leaves."""
        return self.best or self.ema


def new_state(
    recipe: Recipe,
    network: Callable[[ModelFacts], Network],
    model: ModelFacts,
    teacher_channels: tuple[int, ...],
    device: torch.device,
) -> State:
    """The seeded state before the first step; adapters only where a term of the recipe asks for them."""
    torch.manual_seed(recipe.seed)
    net = network(model)
    if recipe.network.weights:
        load_start(net, Path(recipe.network.weights))
    adapts = any(TERMS[name].adapts for name in recipe.distill)
    trainee = Trainee(net, teacher_channels if adapts else ())
    if recipe.network.learns == "covariates":
        if net.covariate_scale_shift is None:
            raise TrainingError("learns=covariates: this network has no covariates")
        trainee.requires_grad_(requires_grad=False)
        net.covariate_scale_shift.requires_grad_(requires_grad=True)
    channels_last(trainee).to(device)
    ema = copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
    return State(trainee=trainee, ema=ema, optimizer=_optimizer(trainee, recipe))


def save_state(state: State, folder: Path) -> None:
    """Write the state into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(state.trainee, folder / "trainee.safetensors")
    save_weights(state.ema, folder / "ema.safetensors")
    moments: dict[str, Tensor] = {
        f"{index}.{name}": value.contiguous()
        for index, slots in state.optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    safetensors.torch.save_file(moments, folder / "optimizer.safetensors")
    facts: dict[str, float] = {"epoch": state.epoch, "step": state.step}
    if state.best:
        save_weights(state.best, folder / _BEST_NAME)
        facts |= {"best_epoch": state.best_epoch, "best_error": state.best_error}
    write_json(folder / "state.json", facts)


def load_state(state: State, folder: Path) -> None:
    """Continue from ``folder``.

    Raises:
        TrainingError: the checkpoint does not fit the recipe.
    """
    try:
        state.trainee.load_state_dict(safetensors.torch.load_file(folder / "trainee.safetensors"))
        state.ema.load_state_dict(safetensors.torch.load_file(folder / "ema.safetensors"))
        moments = safetensors.torch.load_file(folder / "optimizer.safetensors")
        if (folder / _BEST_NAME).exists():
            state.best = copy.deepcopy(state.ema)
            state.best.load_state_dict(safetensors.torch.load_file(folder / _BEST_NAME))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {folder} does not fit this recipe: choose another --out"
        ) from error
    restored = state.optimizer.state_dict()
    restored["state"] = {}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    for key, value in moments.items():
        index, _, name = key.partition(".")
        like = parameters[int(index)]
        # In the memory order of its parameter: the fused step goes through both side by side.
        placed = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        restored["state"].setdefault(int(index), {})[name] = placed
    state.optimizer.load_state_dict(restored)
    facts = read_json(folder / "state.json")
    state.epoch, state.step = int(facts["epoch"]), int(facts["step"])
    state.best_epoch = int(facts.get("best_epoch", 0))
    state.best_error = float(facts.get("best_error", math.inf))


def _optimizer(trainee: Trainee, recipe: Recipe) -> torch.optim.Optimizer:
    learning = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learning if parameter.ndim > 1]
    vectors = [parameter for parameter in learning if parameter.ndim <= 1]  # norms and biases: no decay
    groups = [
        {"params": matrices, "weight_decay": recipe.optimiser.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.optimiser.learning_rate, fused=True)
