"""Training throughput: our loop against a plain one, and a recorded teacher against a live one, in turns.

    python -m benchmarks.training loop DATA [--gpu] [--rounds 3]
    python -m benchmarks.training teacher DATA --run TEACHER --cache CACHE [--gpu] [--steps 40] [--rounds 3]
    python -m benchmarks.training ladder [--gpu] [--size 224] [--batch 128] [--steps 40] [--rounds 3]

``loop``: the student's network alone, images per second through Ray Train with one worker on all cores and
with two, against one process that does what timm's train.py does: for each batch data loader, forward,
backward, clip, step and moving average, then validation; the same network, augmentation and precision.
``teacher``: epochs of the student's recipe without a teacher, with one that looks on, and with a cache.
``ladder``: images per second of a teacher's and a student's network over noise, without Ray, in f32, bf16 and
compiled, and of the plain loop beside them.
DATA is an ingest folder with labels. With ``--gpu`` all that trains does so on the first GPU. Turns
alternate, so that a drift of the machine's speed meets all;
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

from engine.distillation.cached_teacher import RecordedTeacher
from engine.distillation.teacher_cache import open_cache
from engine.imaging.augment import augmented, draw
from engine.ingest.covariates import widths
from engine.models.network import Network, channels_last, frozen
from engine.models.ordered_bins import joint_loss
from engine.tasks import task_named
from engine.training.checkpoint import new_state
from engine.training.dataset import TrainingSet, open_training_set, pack_images
from engine.training.loop import Log, Teacher, World, epochs, recorded_for, validation_errors
from engine.training.on_ray import Workers, train_on_ray
from engine.training.recipe import Recipe, changed, model_of, objective_of, recipe_from_facts
from engine.training.run_folder import load_net, read_metrics
from jobs.cluster_session import start_ray
from jobs.recipes import recipe_named

TASK = task_named("hand-age")
LEARNING = TASK.learning()
CPU = torch.device("cpu")


def device_of(options: argparse.Namespace) -> torch.device:
    """Where a training runs."""
    return torch.device("cuda" if options.gpu else "cpu")


def opened(data: Path, folder: Path, count: int) -> TrainingSet:
    """``count`` samples to train on, 32 to validate with."""
    pack_images(data, folder, TASK.labels)
    samples = open_training_set(data, folder, TASK)
    train_N = samples.index_of("train")
    if len(train_N) < count:
        raise SystemExit(f"{data} has {len(train_N)} training samples, {count} are asked for: fewer --steps")
    splits_N = np.full(len(samples.splits_N), "left", samples.splits_N.dtype)
    splits_N[train_N[:count]] = "train"
    splits_N[samples.index_of("val")[:32]] = "val"
    splits_N[samples.index_of("test")] = "test"
    return replace(samples, splits_N=splits_N)


def turns(
    recipe: Recipe, samples: TrainingSet, teacher: Teacher | RecordedTeacher | None, device: torch.device
) -> Iterator[Log]:
    """Epochs without end."""
    channels = teacher.channels if teacher else ()
    state = new_state(recipe, LEARNING.network, model_of(recipe, TASK.covariates, 1), channels, device)
    return epochs(recipe, LEARNING, samples, state, world=World(device=device), teacher=teacher)


def teachers(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds an epoch, alone and with each kind of teacher."""
    recipe = changed(recipe_named("hand-student"), epochs=options.rounds + 1)
    samples = opened(options.data, folder, options.steps * recipe.optimiser.batch_size)
    device = device_of(options)
    live = Teacher(
        net=frozen(load_net(options.run, LEARNING.network)).to(device),
        precision=recipe.compute.teacher_precision,
    )
    exact = Teacher(net=live.net, precision="f32")
    trainings = {
        "alone": turns(changed(recipe, distill={}), samples, None, device),
        "live": turns(recipe, samples, live, device),
        "live_f32": turns(recipe, samples, exact, device),
        "recorded": turns(
            recipe, samples, recorded_for(samples, open_cache(options.cache), recipe.distill), device
        ),
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


def _epoch(training: Iterator[Any]) -> Callable[[], object]:
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
            print(f"{turn} {name}: {time.perf_counter() - before[0]:.2f} s", flush=True)
            if turn:
                wall[name].append(time.perf_counter() - before[0])
                cpu[name].append(time.process_time() - before[1])
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
        known = torch.from_numpy(self.samples.covariates_NQ[row])
        return image, known, torch.tensor(self.samples.targets["bin"][row]), place


def plain_epochs(recipe: Recipe, samples: TrainingSet, device: torch.device) -> Iterator[float]:
    """The loop of timm's train.py in one process; yields the seconds of each epoch."""
    torch.manual_seed(recipe.seed)
    weights = objective_of(recipe, LEARNING.parameters)
    net = channels_last(Network(model_of(recipe, TASK.covariates, 1))).to(device)
    ema = ModelEmaV2(net, decay=recipe.optimiser.ema_decay)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=recipe.optimiser.learning_rate, weight_decay=recipe.optimiser.weight_decay
    )
    loaders = {"num_workers": 8, "pin_memory": True, "persistent_workers": True} if device != CPU else {}
    loader = DataLoader(
        Films(samples), batch_size=recipe.optimiser.batch_size, shuffle=True, drop_last=True, **loaders
    )  # fmt: skip
    for epoch in range(recipe.schedule.epochs):
        started = time.perf_counter()
        draws = draw(len(samples.index_of("train")), recipe.augmentation, seed=recipe.seed, epoch=epoch)
        net.train()
        for *parts, place_B in loader:
            x_BVHW, known_BQ, months_B = (part.to(device, non_blocking=True) for part in parts)
            shown = augmented(x_BVHW, draws.at(place_B)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.compute.precision == "bf16"):
                logits_BK = net(shown, known_BQ).logits_BK
            loss = joint_loss(logits_BK, months_B, weight=weights["kl"], delta=weights["delta"])["task"]
            optimizer.zero_grad()
            loss.backward()
            dispatch_clip_grad(net.parameters(), value=recipe.optimiser.clip_norm)
            optimizer.step()
            ema.update(net)
        validation_errors(LEARNING, ema.module, samples, samples.index_of("val"))
        yield time.perf_counter() - started


def plain_seconds(facts: dict[str, Any], data: str, folder: str, device: str) -> list[float]:
    """Seconds of each epoch of the plain loop on all cores of this machine, or on its GPU."""
    torch.set_num_threads(os.cpu_count() or 1)
    samples = open_training_set(Path(data), Path(folder), TASK)
    return list(plain_epochs(recipe_from_facts(facts), samples, torch.device(device)))


def noise(count: int, size: int) -> TrainingSet:
    """``count`` samples of noise to train on, 32 to validate with."""
    rng = np.random.default_rng(0)
    total = count + 32
    months_N = rng.uniform(12, 216, total).astype(np.float32)
    names_N = np.array([f"{place}" for place in range(total)])
    return TrainingSet(
        images_NVHW=rng.integers(0, 256, (total, 1, size, size), np.uint8),
        to_network_N33=np.broadcast_to(np.eye(3), (total, 3, 3)),
        covariates_NQ=np.zeros((total, sum(widths(TASK.covariates))), np.float32),
        patients_N=names_N,
        uids_N=names_N,
        patient_sex_N=names_N,
        age_months_N=months_N,
        covariates=TASK.covariates,
        targets={"bone_age_months": months_N, "bin": months_N},
        truth={"bone_age_months": months_N},
        splits_N=np.array(["train"] * count + ["val"] * 32),
    )


def ladder(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Images per second by network, precision and compilation; the folder is not used."""
    device = device_of(options)
    samples = noise(options.steps * options.batch, options.size)
    works: dict[str, Callable[[], object]] = {}
    for name in ("hand-teacher-pretrained", "hand-cut-student"):
        recipe = replace(
            recipe_named(name), distill={}, epochs=options.rounds + 1, batch_size=options.batch
        )  # fmt: skip
        works[f"{name} plain bf16"] = _epoch(plain_epochs(changed(recipe, precision="bf16"), samples, device))
        for title, tried in (
            ("f32", changed(recipe, precision="f32")),
            ("bf16", changed(recipe, precision="bf16")),
            ("bf16 compiled", changed(recipe, precision="bf16", compile=True)),
        ):
            works[f"{name} {title}"] = _epoch(turns(tried, samples, None, device))
    wall, cpu = in_turns(works, options.rounds)
    images = options.steps * options.batch
    return {
        "device": torch.cuda.get_device_name() if options.gpu else "cpu",
        "size": options.size,
        "batch": options.batch,
        "images_per_second": {name: round(images / seconds, 1) for name, seconds in wall.items()},
        "cpu_s_per_1000_images": {name: round(1000 * seconds / images, 3) for name, seconds in cpu.items()},
    }


def loops(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Images per second of our loop through Ray Train with one worker and with two, and of the plain one."""
    recipe = changed(recipe_named("hand-student"), distill={}, epochs=3)
    pack_images(options.data, folder, TASK.labels)
    samples = open_training_set(options.data, folder, TASK)
    # In a worker process of the same Ray, so that the kernel's scheduler sees both loops alike.
    cores, device = os.cpu_count() or 1, device_of(options)
    plain = ray.remote(num_cpus=cores, num_gpus=int(options.gpu), max_calls=1)(plain_seconds)
    images = len(samples.index_of("train")) // recipe.optimiser.batch_size * recipe.optimiser.batch_size
    start_ray()
    speeds: dict[str, list[float]] = defaultdict(list)
    for turn in range(options.rounds):
        spent = ray.get(plain.remote(recipe.facts(), str(options.data), str(folder), device.type))
        speeds["plain"] += [images / seconds for seconds in spent[1:]]
        for workers in (1,) if options.gpu else (1, 2):
            run = folder / f"{workers}-{turn}"
            pack_images(options.data, run / "cache", TASK.labels)
            train_on_ray(
                recipe, TASK, options.data, run, teacher=None,
                workers=Workers(count=workers, threads=max(cores // workers, 1), gpu=options.gpu),
            )  # fmt: skip
            speeds[f"ours_{workers}"] += [images / log["seconds"] for log in read_metrics(run)[1:]]
        print(f"turn {turn + 1}/{options.rounds}", flush=True)
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    ratios = {
        f"{name}_over_{of}": round(medians[name] / medians[of], 3)
        for name, of in (("ours_1", "plain"), ("ours_2", "plain"), ("ours_2", "ours_1"))
        if name in medians
    }
    return {"cores": cores, "device": device.type, "images_per_second": medians, **ratios}


def main() -> None:
    """Measure one of the three."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("loop", "teacher", "ladder"))
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = {"loop": loops, "teacher": teachers, "ladder": ladder}[options.what](options, Path(folder))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
