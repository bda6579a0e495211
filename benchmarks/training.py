"""Training throughput: our loop against a plain one, and a recorded teacher against a live one, in turns.

    python -m benchmarks.training loop DATA [--steps 40] [--rounds 3]
    python -m benchmarks.training teacher DATA --run TEACHER --cache CACHE [--steps 40] [--rounds 3]

``loop``: the student's network alone, images per second through Ray Train with one worker on all cores and
with two, against one process that does what timm's train.py does: for each batch data loader, forward,
backward, clip, step and moving average, then validation; the same network, augmentation and precision.
``teacher``: epochs of the student's recipe without a teacher, with one that looks on, and with a cache.
DATA is an ingest folder with labels. Turns alternate, so that a drift of the machine's speed meets all;
ratios are of the medians of the turns, of wall time and (``teacher``) of CPU time. Last line JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from timm.utils import ModelEmaV2, dispatch_clip_grad
from torch.utils.data import DataLoader, Dataset

from engine.age_distribution import joint_loss
from engine.augment import augmented, draw
from engine.checkpoint import new_state
from engine.fit import Log, Teacher, World, epochs, predict, recorded_for
from engine.models import AgeNet, channels_last, frozen
from engine.recipe import Recipe, recipe_from_facts
from engine.recorded import RecordedTeacher
from engine.run import load_net, read_metrics
from engine.samples import TrainingSet, open_training_set, pack_images
from engine.tasks import task_named
from engine.teacher_cache import open_cache
from engine.train import Workers, train_on_ray
from jobs.cluster_session import start_ray
from jobs.recipes import recipe_named

TASK = task_named("hand-age")
CPU = torch.device("cpu")


def opened(data: Path, folder: Path, count: int) -> TrainingSet:
    """``count`` samples to train on, 32 to validate with."""
    pack_images(data, folder, TASK.label)
    samples = open_training_set(data, folder, TASK)
    train_N = samples.index_of("train")
    if len(train_N) < count:
        raise SystemExit(f"{data} has {len(train_N)} training samples, {count} are asked for: fewer --steps")
    splits_N = np.full(len(samples.splits_N), "left", samples.splits_N.dtype)
    splits_N[train_N[:count]] = "train"
    splits_N[samples.index_of("val")[:32]] = "val"
    splits_N[samples.index_of("test")] = "test"
    return replace(samples, splits_N=splits_N)


def turns(recipe: Recipe, samples: TrainingSet, teacher: Teacher | RecordedTeacher | None) -> Iterator[Log]:
    """Epochs without end."""
    channels = teacher.channels if teacher else ()
    state = new_state(recipe, TASK.model_facts(recipe.backbone), channels, CPU)
    return epochs(recipe, TASK, samples, state, world=World(), teacher=teacher)


def teachers(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds an epoch, alone and with each kind of teacher."""
    recipe = replace(recipe_named("hand-student"), epochs=options.rounds + 1)
    samples = opened(options.data, folder, options.steps * recipe.batch_size)
    live = Teacher(net=frozen(load_net(options.run)), precision=recipe.teacher_precision)
    exact = Teacher(net=live.net, precision="f32")
    trainings = {
        "alone": turns(replace(recipe, distill={}), samples, None),
        "live": turns(recipe, samples, live),
        "live_f32": turns(recipe, samples, exact),
        "recorded": turns(recipe, samples, recorded_for(samples, open_cache(options.cache), recipe.distill)),
    }
    wall, cpu = in_turns({name: _epoch(epoch) for name, epoch in trainings.items()}, options.rounds)
    return {
        "steps": options.steps,
        "wall_s": wall,
        "cpu_s": cpu,
        **{
            f"{name}_over_recorded": {
                "wall": round(wall[name] / wall["recorded"], 2),
                "cpu": round(cpu[name] / cpu["recorded"], 2),
            }
            for name in ("live", "live_f32", "alone")
        },
    }


def _epoch(training: Iterator[Log]) -> Callable[[], object]:
    return lambda: next(training)


def in_turns(
    works: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of wall and CPU seconds of each work; the first turn warms up and does not count."""
    wall, cpu = defaultdict(list), defaultdict(list)
    for turn in range(rounds + 1):
        for name, work in works.items():
            before = time.perf_counter(), time.process_time()
            work()
            if turn:
                wall[name].append(time.perf_counter() - before[0])
                cpu[name].append(time.process_time() - before[1])
        print(f"turn {turn}/{rounds}", flush=True)
    return _medians(wall), _medians(cpu)


def _medians(spent: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(seconds), 3) for name, seconds in spent.items()}


class Films(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]]):
    """The training split, a sample at a time, for a data loader."""

    def __init__(self, samples: TrainingSet) -> None:
        """Over ``samples``."""
        self.samples, self.train_N = samples, samples.index_of("train")

    def __len__(self) -> int:
        """Samples."""
        return len(self.train_N)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Image in [0, 1], covariates, months, place."""
        row = self.train_N[place]
        image = torch.from_numpy(self.samples.images_NVHW[row].copy()).float() / 255
        told = torch.from_numpy(self.samples.covariates_NQ[row])
        return image, told, torch.tensor(self.samples.months_N[row]), place


def plain_epochs(recipe: Recipe, samples: TrainingSet) -> Iterator[float]:
    """The loop of timm's train.py in one process; yields the seconds of each epoch."""
    torch.manual_seed(recipe.seed)
    net = channels_last(AgeNet(TASK.model_facts(recipe.backbone)))
    ema = ModelEmaV2(net, decay=recipe.ema_decay)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    loader = DataLoader(Films(samples), batch_size=recipe.batch_size, shuffle=True, drop_last=True)
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        draws = draw(len(samples.index_of("train")), recipe.augmentation, seed=recipe.seed, epoch=epoch)
        net.train()
        for x_BVHW, told_BQ, months_B, place_B in loader:
            shown = augmented(x_BVHW, draws.at(place_B)).contiguous(memory_format=torch.channels_last)
            logits_BK = net(shown, told_BQ).logits_BK
            loss = joint_loss(logits_BK, months_B, weight=recipe.kl_weight, delta=recipe.delta_months)["task"]
            optimizer.zero_grad()
            loss.backward()
            dispatch_clip_grad(net.parameters(), value=recipe.clip_norm)
            optimizer.step()
            ema.update(net)
        predict(ema.module, samples, samples.index_of("val"))
        yield time.perf_counter() - started


def plain_seconds(facts: dict[str, Any], data: str, folder: str) -> list[float]:
    """Seconds of each epoch of the plain loop on all cores of this machine."""
    torch.set_num_threads(os.cpu_count() or 1)
    return list(plain_epochs(recipe_from_facts(facts), open_training_set(Path(data), Path(folder), TASK)))


def loops(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Images per second of our loop through Ray Train with one worker and with two, and of the plain one."""
    recipe = replace(recipe_named("hand-student"), distill={}, epochs=3)
    pack_images(options.data, folder, TASK.label)
    samples = open_training_set(options.data, folder, TASK)
    # In a worker process of the same Ray, so that the kernel's scheduler sees both loops alike.
    plain = ray.remote(num_cpus=os.cpu_count())(plain_seconds)
    cores = os.cpu_count() or 1
    images = len(samples.index_of("train")) // recipe.batch_size * recipe.batch_size
    start_ray()
    speeds: dict[str, list[float]] = defaultdict(list)
    for turn in range(options.rounds):
        spent = ray.get(plain.remote(recipe.facts(), str(options.data), str(folder)))
        speeds["plain"] += [images / seconds for seconds in spent[1:]]
        for workers in (1, 2):
            run = folder / f"{workers}-{turn}"
            pack_images(options.data, run / "cache", TASK.label)
            train_on_ray(
                recipe.facts(), options.data, run, teacher=None,
                workers=Workers(count=workers, threads=max(cores // workers, 1)),
            )  # fmt: skip
            speeds[f"ours_{workers}"] += [images / log["seconds"] for log in read_metrics(run)[1:]]
        print(f"turn {turn + 1}/{options.rounds}", flush=True)
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    return {
        "cores": cores,
        "images_per_second": medians,
        "ours_1_over_plain": round(medians["ours_1"] / medians["plain"], 3),
        "ours_2_over_plain": round(medians["ours_2"] / medians["plain"], 3),
        "ours_2_over_ours_1": round(medians["ours_2"] / medians["ours_1"], 3),
    }


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("loop", "teacher"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = {"loop": loops, "teacher": teachers}[options.what](options, Path(folder))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
