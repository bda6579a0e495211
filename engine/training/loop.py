"""The training loop, one for every role: plain torch, no Ray. An epoch is one item of a generator.

Everything random follows from (seed, epoch, rank), so a resumed run continues as if it had not stopped.
Legend: B batch, N samples, V views, Q covariate columns, H, W view.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.distillation.cached_teacher import RecordedTeacher, needed
from engine.distillation.teacher_cache import TeacherCache
from engine.errors import TrainingError
from engine.imaging.augment import Draws, augmented, draw
from engine.imaging.warp import between
from engine.ingest.covariates import hidden
from engine.models.batch import Batch
from engine.models.network import Network, Outputs, compiled
from engine.training.checkpoint import State
from engine.training.dataset import TrainingSet
from engine.training.forward import outputs
from engine.training.learning import Learning, Weights
from engine.training.recipe import Recipe, objective_of

Log = dict[str, float]

_SEED_STRIDE = 100_003
_FINITE = "is_finite"
_WITHHELD = 1  # a stream of random numbers of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This worker among all workers; ``wrap`` makes a module synchronise its gradients."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A frozen network that sees what the student sees, and the precision it runs in."""

    net: Network
    precision: str

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each tap."""
        return self.net.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What stays the same over a training; ``model`` is the trainee wrapped by its world."""

    recipe: Recipe
    learning: Learning
    objective: Mapping[str, float]
    """Parameters of the task's loss."""
    data: TrainingSet
    train_N: NDArray[np.int64]
    """Places of the training split in the data; all below is numbered within it."""
    teacher: Teacher | RecordedTeacher | None
    world: World
    model: nn.Module


def epochs(
    recipe: Recipe,
    learning: Learning,
    data: TrainingSet,
    state: State,
    *,
    world: World,
    teacher: Teacher | RecordedTeacher | None,
) -> Iterator[Log]:
    """Train ``state`` in place, from its epoch on; yields the log of each epoch.

    Ends with the recipe's last epoch, or when the validation error has not fallen for ``patience`` of them. A
    recorded teacher numbers the samples of the training split.

    Raises:
        TrainingError: the loss is not finite.
        MissingDependencyError: the recipe compiles, and there is no compiler.
    """
    if recipe.compute.compile:
        compiled(state.trainee.net)
    training = _Training(
        recipe=recipe, learning=learning, objective=objective_of(recipe, learning.parameters), data=data,
        train_N=data.index_of("train"), teacher=teacher, world=world, model=world.wrap(state.trainee),
    )  # fmt: skip
    for epoch in range(state.epoch, recipe.schedule.epochs):
        if recipe.schedule.patience and state.epoch - state.best_epoch >= recipe.schedule.patience:
            return
        started = time.perf_counter()
        log = _train_epoch(_withheld(training, state.epoch), state)
        state.epoch = epoch + 1
        log["val/error"] = error = _validation_error(learning, state.ema, data, world)
        if recipe.schedule.patience and error < state.best_error:
            state.best_error, state.best_epoch = error, state.epoch
            state.best = copy.deepcopy(state.ema)
        yield {"epoch": state.epoch, "step": state.step, **log, "seconds": time.perf_counter() - started}


def recorded_for(data: TrainingSet, cache: TeacherCache, terms: Iterable[str]) -> RecordedTeacher:
    """A teacher cache as the teacher of the training split of ``data``.

    Raises:
        TeacherCacheError: a sample is not in the cache, or a term needs what was not recorded.
    """
    names, train_N = needed(cache, terms), data.index_of("train")
    places_N = cache.places(data.uids_N[train_N].tolist())
    size_HW = (data.images_NVHW.shape[2], data.images_NVHW.shape[3])
    theirs_N33 = torch.from_numpy(cache.to_network_N33[places_N])
    ours_N33 = torch.from_numpy(data.to_network_N33[train_N])
    warp = between(theirs_N33, ours_N33, cache.size_HW, size_HW)
    return RecordedTeacher(cache=cache, places_N=places_N, warp_N=warp, names=names)


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Linear warm-up over the recipe's share of steps, then a cosine to zero."""
    warm_steps = max(int(recipe.schedule.warmup * total_steps), 1)
    if step < warm_steps:
        return recipe.optimiser.learning_rate * (step + 1) / warm_steps
    progress = (step - warm_steps) / max(total_steps - warm_steps, 1)
    return recipe.optimiser.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _train_epoch(training: _Training, state: State) -> Log:
    recipe, world, count = training.recipe, training.world, len(training.train_N)
    torch.manual_seed(_SEED_STRIDE * (_SEED_STRIDE * recipe.seed + state.epoch) + world.rank)
    order = np.random.default_rng((recipe.seed, state.epoch)).permutation(count)
    draws = draw(count, recipe.augmentation, seed=recipe.seed, epoch=state.epoch)
    per_worker = max(recipe.optimiser.batch_size // world.size, 1)
    steps = max(count // (per_worker * world.size), 1)
    mine = order[world.rank :: world.size]
    follow_ema = _Ema(state.ema, state.trainee.net)
    sums: dict[str, Tensor] = {}
    # a norm that does not learn keeps its statistics, too
    training.model.train(recipe.network.learns == "all")
    is_finite = None
    for place in range(steps):
        chosen_B = mine[place * per_worker : (place + 1) * per_worker]
        parts = _step(training, state, draws, chosen_B, total_steps=steps * recipe.schedule.epochs)
        # Asked of the step before: a GPU has its next work by then, and is not waited for.
        _require_finite(is_finite, state.step - 2)
        is_finite = parts.pop(_FINITE)
        follow_ema(min(recipe.optimiser.ema_decay, (1 + state.step) / (10 + state.step)))
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.double()
    _require_finite(is_finite, state.step - 1)
    names = {name: name if name.startswith("term/") else f"train/{name}" for name in sums}
    return {names[name]: float(total) / steps for name, total in sums.items()}


def _require_finite(is_finite: Tensor | None, step: int) -> None:
    if is_finite is not None and not is_finite:
        raise TrainingError(f"loss or gradient is not finite at step {step}: lower learning_rate or use f32")


def _step(
    training: _Training, state: State, draws: Draws, chosen_B: NDArray[np.int64], *, total_steps: int
) -> dict[str, Tensor]:
    """One step of the optimiser on some samples, in as many parts as the recipe says."""
    recipe, model = training.recipe, training.model
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, state.step, total_steps)
    weights = _weights(training, state.step / total_steps)
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    portions = np.array_split(chosen_B, min(recipe.optimiser.accumulate, len(chosen_B)))
    for number, portion_B in enumerate(portions, 1):
        share = len(portion_B) / len(chosen_B)
        with _synchronised(model, number == len(portions)):
            parts = _objective(training, draws, portion_B, weights)
            torch.autograd.backward(share * parts["loss"])
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + share * part.detach()
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.optimiser.clip_norm)
    is_finite = torch.isfinite(sums["loss"]) & torch.isfinite(norm)
    state.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # where 1, weights stay
    state.optimizer.step()
    state.step += 1
    return {**sums, _FINITE: is_finite}


def _objective(
    training: _Training, draws: Draws, chosen_B: NDArray[np.int64], weights: Weights
) -> dict[str, Tensor]:
    """The parts of the objective on some samples, augmented."""
    batch = _batch(training.data, training.train_N[chosen_B], training.world.device)
    drawn = draws.at(torch.from_numpy(chosen_B))
    shown_BVHW = augmented(batch.x_BVHW, drawn).contiguous(memory_format=torch.channels_last)
    height, width = shown_BVHW.shape[2:]
    batch = replace(batch, x_BVHW=shown_BVHW, warp=drawn.warp((height, width)))
    teacher = _teacher_outputs(training, batch, chosen_B)
    with _precision(training.recipe.compute.precision, training.world.device):
        student = training.model(batch.x_BVHW, batch.covariates_BQ)
    return training.learning.objective(student, teacher, batch, weights)


def _synchronised(model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Gradients are summed over the workers once a step: with its last part."""
    waits = getattr(model, "no_sync", None)
    return nullcontext() if is_last or waits is None else waits()


def _weights(training: _Training, progress: float) -> Weights:
    """The weights after a share of all steps; a term without a ramp has its whole weight from the start."""
    recipe = training.recipe
    risen = {name: min(progress / share, 1.0) for name, share in recipe.ramps.items() if share > 0}
    terms = {name: weight * risen.get(name, 1.0) for name, weight in recipe.distill.items()}
    return Weights(task=training.objective, terms=terms)


def _teacher_outputs(training: _Training, batch: Batch, chosen_B: NDArray[np.int64]) -> Outputs | None:
    teacher, device = training.teacher, training.world.device
    if teacher is None:
        return None
    if isinstance(teacher, RecordedTeacher):
        assert batch.warp is not None
        return teacher.outputs(chosen_B, batch.warp, device)
    shown = training.learning.teacher_view(batch)
    with torch.no_grad(), _precision(teacher.precision, device):
        found: Outputs = teacher.net(shown.x_BVHW, shown.covariates_BQ)
    return found


def _batch(data: TrainingSet, index_B: NDArray[np.int64], device: torch.device) -> Batch:
    images_BVHW = torch.from_numpy(data.images_NVHW[index_B])
    return Batch(
        images_BVHW.to(device).float() / 255,
        torch.from_numpy(data.covariates_NQ[index_B]).to(device),
        {name: torch.from_numpy(values[index_B]).to(device) for name, values in data.targets.items()},
    )


def _withheld(training: _Training, epoch: int) -> _Training:
    """The training with the covariates that this epoch hides, the same on every worker."""
    recipe, data = training.recipe, training.data
    if not recipe.inputs.covariate_dropout:
        return training
    rng = np.random.default_rng((recipe.seed, epoch, _WITHHELD))
    is_hidden_N = rng.random(len(data.covariates_NQ)) < recipe.inputs.covariate_dropout
    covariates_NQ = hidden(data.covariates_NQ, data.covariates, is_hidden_N)
    return replace(training, data=replace(data, covariates_NQ=covariates_NQ))


class _Ema:
    """Exponential moving average of weights; buffers that count are copied."""

    def __init__(self, ema: nn.Module, model: nn.Module) -> None:
        pairs = list(zip(ema.state_dict().values(), model.state_dict().values(), strict=True))
        real = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        self._means, self._values = [mean for mean, _ in real], [value for _, value in real]
        self._counts = [pair for pair in pairs if not pair[0].dtype.is_floating_point]

    def __call__(self, decay: float) -> None:
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._values, 1 - decay)
            for mean, value in self._counts:
                mean.copy_(value)


def _validation_error(learning: Learning, ema: Network, data: TrainingSet, world: World) -> float:
    index = data.index_of("val")[world.rank :: world.size]
    if world.size > 1:  # running statistics differ by rank; what is saved is rank 0's
        for buffer in ema.buffers():
            dist.broadcast(buffer, 0)
    errors_N = validation_errors(learning, ema, data, index)
    total = torch.tensor([errors_N.sum(), len(index)], dtype=torch.float64)
    if world.size > 1:
        total = total.to(world.device)
        dist.all_reduce(total)
    return float(total[0] / total[1])


def validation_errors(
    learning: Learning, net: Network, data: TrainingSet, index_N: NDArray[np.int64]
) -> NDArray[Any]:
    """The errors [N] of some samples against their targets."""
    if not len(index_N):
        return np.zeros(0)
    raw = outputs(net, data.images_NVHW[index_N], data.covariates_NQ[index_N], learning.kept)
    return learning.error(raw, {name: values[index_N] for name, values in data.targets.items()})


def _precision(name: str, device: torch.device) -> torch.autocast:
    # Without bf16 instructions a CPU emulates them, slower than float32.
    is_supported = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16" and is_supported)
