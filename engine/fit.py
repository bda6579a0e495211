"""The training loop, one for every role: plain torch, no Ray. An epoch is one item of a generator.

Everything random follows from (seed, epoch, rank), so a resumed run continues as if it had not stopped.
Legend: B batch, N samples, H, W view.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.age_distribution import moments
from engine.augment import augmented, draw
from engine.batch import Batch
from engine.checkpoint import State
from engine.errors import TrainingError
from engine.models import AgeNet, Outputs
from engine.recipe import Recipe
from engine.samples import TrainingSet
from engine.task import Task, Weights

Log = dict[str, float]

_SEED_STRIDE = 100_003


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This worker among all workers; ``wrap`` makes a module synchronise its gradients."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A frozen network and the precision it runs in."""

    net: AgeNet
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What stays the same over a training; ``model`` is the trainee wrapped by its world."""

    recipe: Recipe
    task: Task
    teacher: Teacher | None
    world: World
    model: nn.Module


def epochs(
    recipe: Recipe, task: Task, data: TrainingSet, state: State, *, world: World, teacher: Teacher | None
) -> Iterator[Log]:
    """Train ``state`` in place, from its epoch to the recipe's last; yields the log of each epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    lesson = _Lesson(recipe=recipe, task=task, teacher=teacher, world=world, model=world.wrap(state.trainee))
    for epoch in range(state.epoch, recipe.epochs):
        started = time.perf_counter()
        log = _train_epoch(lesson, data, state)
        state.epoch = epoch + 1
        log["val/mae_months"] = _validation_error(state.ema, data, world)
        yield {"epoch": state.epoch, "step": state.step, **log, "seconds": time.perf_counter() - started}


def predict(
    net: AgeNet, data: TrainingSet, index_B: NDArray[np.int64], *, batch_size: int = 128
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expected months [B] and sd [B] of some samples, in float32 and eval mode."""
    device = next(net.parameters()).device
    net.eval()
    months, sds = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    with torch.inference_mode():
        for start in range(0, len(index_B), batch_size):
            batch = _batch(data, index_B[start : start + batch_size], device)
            mean_B, sd_B = moments(net(batch.x_B1HW, batch.sex_B1).logits_BK)
            months.append(mean_B.cpu().numpy())
            sds.append(sd_B.cpu().numpy())
    return np.concatenate(months), np.concatenate(sds)


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Linear warm-up over the recipe's share of steps, then a cosine to zero."""
    warm_steps = max(int(recipe.warmup * total_steps), 1)
    if step < warm_steps:
        return recipe.learning_rate * (step + 1) / warm_steps
    progress = (step - warm_steps) / max(total_steps - warm_steps, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _train_epoch(lesson: _Lesson, data: TrainingSet, state: State) -> Log:
    recipe, world = lesson.recipe, lesson.world
    torch.manual_seed(_SEED_STRIDE * (_SEED_STRIDE * recipe.seed + state.epoch) + world.rank)
    train_N = data.index_of("train")
    order = np.random.default_rng((recipe.seed, state.epoch)).permutation(len(train_N))
    draws = draw(len(train_N), recipe.augmentation, seed=recipe.seed, epoch=state.epoch)
    per_worker = max(recipe.batch_size // world.size, 1)
    steps = max(len(train_N) // (per_worker * world.size), 1)
    mine = order[world.rank :: world.size]
    sums: dict[str, float] = {}
    lesson.model.train()
    for place in range(steps):
        chosen_B = mine[place * per_worker : (place + 1) * per_worker]
        batch = _batch(data, train_N[chosen_B], world.device)
        moved = augmented(batch.x_B1HW, draws.at(torch.from_numpy(chosen_B)))
        batch = Batch(moved.contiguous(memory_format=torch.channels_last), batch.sex_B1, batch.months_B)
        parts = _step(lesson, state, batch, total_steps=steps * recipe.epochs)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {_log_name(name): total / steps for name, total in sums.items()}


def _step(lesson: _Lesson, state: State, batch: Batch, *, total_steps: int) -> dict[str, Tensor]:
    recipe, model = lesson.recipe, lesson.model
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, state.step, total_steps)
    taught = _taught(lesson.teacher, batch)
    with _precision(recipe.precision, batch.x_B1HW.device):
        outputs = model(batch.x_B1HW, batch.sex_B1)
    parts = lesson.task.objective(outputs, taught, batch, _weights(recipe, state.step / total_steps))
    state.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(parts["loss"])
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    if not (torch.isfinite(parts["loss"]) and torch.isfinite(norm)):
        raise TrainingError(
            f"loss or gradient is not finite at step {state.step}: lower learning_rate or use f32"
        )
    state.optimizer.step()
    state.step += 1
    _follow(state.ema, state.trainee.net, min(recipe.ema_decay, (1 + state.step) / (10 + state.step)))
    return {name: part.detach() for name, part in parts.items()}


def _weights(recipe: Recipe, progress: float) -> Weights:
    """The weights after a share of all steps; a term without a ramp has its whole weight from the start."""
    risen = {name: min(progress / share, 1.0) for name, share in recipe.ramps.items() if share > 0}
    terms = {name: weight * risen.get(name, 1.0) for name, weight in recipe.distill.items()}
    return Weights(kl=recipe.kl_weight, delta_months=recipe.delta_months, terms=terms)


def _taught(teacher: Teacher | None, batch: Batch) -> Outputs | None:
    if teacher is None:
        return None
    with torch.no_grad(), _precision(teacher.precision, batch.x_B1HW.device):
        outputs: Outputs = teacher.net(batch.x_B1HW, batch.sex_B1)
    return outputs


def _batch(data: TrainingSet, index_B: NDArray[np.int64], device: torch.device) -> Batch:
    images_BHW = torch.from_numpy(data.images_NHW[index_B])
    return Batch(
        images_BHW[:, None].to(device).float() / 255,
        torch.from_numpy(data.sex_N[index_B])[:, None].to(device),
        torch.from_numpy(data.months_N[index_B]).to(device),
    )


def _follow(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights; buffers that count are copied."""
    with torch.no_grad():
        for mean, value in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _validation_error(ema: AgeNet, data: TrainingSet, world: World) -> float:
    index = data.index_of("val")[world.rank :: world.size]
    if world.size > 1:  # running statistics differ by rank; what is saved is rank 0's
        for buffer in ema.buffers():
            dist.broadcast(buffer, 0)
    months_B, _ = predict(ema, data, index)
    total = torch.tensor([np.abs(months_B - data.months_N[index]).sum(), len(index)], dtype=torch.float64)
    if world.size > 1:
        total = total.to(world.device)
        dist.all_reduce(total)
    return float(total[0] / total[1])


def _precision(name: str, device: torch.device) -> torch.autocast:
    # Without bf16 instructions a CPU emulates them, slower than float32.
    is_supported = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16" and is_supported)


def _log_name(name: str) -> str:
    return name if name.startswith("term/") else f"train/{name}"
