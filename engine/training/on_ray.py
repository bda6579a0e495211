"""Ray Train around the plain loop: workers, gradient synchronisation, checkpoints. The door to ray.train."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device, prepare_model

from engine.distillation.cached_teacher import RecordedTeacher
from engine.distillation.teacher_cache import is_cache, open_cache
from engine.errors import EngineError, TrainingError
from engine.ingest.malloc import ACTIVATIONS, HUGE_PAGES, keep_freed_memory
from engine.models.network import ModelFacts, frozen, save_weights
from engine.training.checkpoint import load_state, new_state, save_state
from engine.training.dataset import TrainingSet, open_training_set
from engine.training.learning import Learnable, Learning
from engine.training.loop import Teacher, World, epochs, recorded_for
from engine.training.recipe import Recipe, changed, model_of, recipe_from_facts
from engine.training.run_folder import WEIGHTS_NAME, append_metrics, forget_after, load_net

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many Ray Train workers; ``threads`` is the number of CPUs of each, ``gpu`` gives each one GPU."""

    count: int
    threads: int
    gpu: bool = False


def train_on_ray(
    recipe: Recipe, task: Learnable, data: Path, run: Path, *, teacher: Path | None, workers: Workers
) -> None:
    """Train the recipe on ``workers``; the same ``run`` again continues at its last checkpoint.

    ``run`` must be reachable from every node.

    Raises:
        EngineError: a worker refused the recipe or the data.
        TrainingError: workers died three times.
    """
    weights = recipe.network.weights  # a worker has another working directory
    config = {
        "recipe": changed(recipe, weights=str(Path(weights).resolve()) if weights else "").facts(),
        "task": task,
        "data": str(data.resolve()),
        "run": str(run.resolve()),
        "teacher": str(teacher.resolve()) if teacher else None,
        "threads": workers.threads,
    }
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _trainer(config, workers).fit()
        except ray.train.TrainingFailedError as error:
            raised = getattr(error, "worker_failures", {}).values()
            for ours in (failure for failure in raised if isinstance(failure, EngineError)):
                raise ours from error  # it would come again, so it is not tried again
            if attempt == _ATTEMPTS:
                raise TrainingError(f"the workers failed {_ATTEMPTS} times: {error}") from error
        else:
            return


def _trainer(config: dict[str, Any], workers: Workers) -> TorchTrainer:
    resources = {"CPU": workers.threads, **({"GPU": 1} if workers.gpu else {})}
    return TorchTrainer(
        _train_worker,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count, use_gpu=workers.gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            worker_runtime_env={"env_vars": HUGE_PAGES},  # type: ignore[call-arg]  # Ray's types lag
            storage_path=f"{config['run']}/ray",  # an absolute path: Ray takes no other
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )


def _train_worker(config: dict[str, Any]) -> None:
    """One worker: every rank trains, rank 0 writes."""
    keep_freed_memory(ACTIVATIONS)
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    recipe = recipe_from_facts(config["recipe"])
    task: Learnable = config["task"]
    learning, run, data = task.learning(), Path(config["run"]), Path(config["data"])
    device = get_device()
    world = World(
        rank=context.get_world_rank(), size=context.get_world_size(), device=device, wrap=prepare_model
    )
    samples = open_training_set(data, run / "cache", task, recipe.inputs, recipe.split)
    views = samples.images_NVHW.shape[1]
    model = model_of(recipe, task.covariates, views)
    teacher = _teacher(config["teacher"], recipe, learning, model, samples, device)
    state = new_state(recipe, learning.network, model, teacher.channels if teacher else (), device)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            load_state(state, Path(folder))
    is_writer = world.rank == 0
    if is_writer:
        forget_after(run, state.epoch)
    for log in epochs(recipe, learning, samples, state, world=world, teacher=teacher):
        with tempfile.TemporaryDirectory() as folder:
            if is_writer:
                append_metrics(run, log)
                save_state(state, Path(folder))
            ray.train.report(
                log, checkpoint=ray.train.Checkpoint.from_directory(folder) if is_writer else None
            )
    if is_writer:
        save_weights(state.chosen, run / WEIGHTS_NAME)


def _teacher(
    folder: str | None,
    recipe: Recipe,
    learning: Learning,
    student: ModelFacts,
    samples: TrainingSet,
    device: torch.device,
) -> Teacher | RecordedTeacher | None:
    if folder is None:
        return None
    if is_cache(Path(folder)):
        return recorded_for(samples, open_cache(Path(folder)), recipe.distill)
    net = frozen(load_net(Path(folder), learning.network)).to(device)
    require_same_inputs(net.facts, student, Path(folder))
    return Teacher(net=net, precision=recipe.compute.teacher_precision)


def require_same_inputs(teacher: ModelFacts, student: ModelFacts, folder: Path) -> None:
    """Refuse a live teacher that takes other views or covariates than the student.

    Raises:
        TrainingError: other views, or other covariates; ``folder`` is the teacher's.
    """
    for what, theirs, ours in (
        ("view(s)", teacher.num_views, student.num_views),
        ("covariates", ", ".join(teacher.covariates) or "none", ", ".join(student.covariates) or "none"),
    ):
        if theirs != ours:
            raise TrainingError(
                f"the teacher {folder} takes other {what} ({theirs}) than the student ({ours}): record it "
                "with `osteoray record-teacher` on its own data, and give that as --teacher"
            )
