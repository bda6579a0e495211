"""``osteoray train``: a recipe to a run folder. Teacher and student take the same way."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.distillation.teacher_cache import TeacherCache, is_cache, open_cache, require_intact
from engine.errors import TeacherCacheError, TrainingError, UsageError
from engine.evaluation.answer import figures_from_facts
from engine.evaluation.held_out import HeldOut
from engine.ingest.samples_folder import data_facts
from engine.store import lease
from engine.store.files import code_version, read_json, sha256_of_file, write_json
from engine.tasks import task_named
from engine.training.dataset import (
    TrainingSet,
    open_training_set,
    pack_images,
    require_no_duplicates_across_splits,
)
from engine.training.recipe import Recipe, changed, model_of, objective_of, recipe_from_facts, with_changes
from engine.training.run_folder import (
    EVALUATION_NAME,
    RUN_NAME,
    WEIGHTS_NAME,
    epochs_logged,
    read_metrics,
    read_run,
)
from jobs.cluster_session import is_joining, require_gpus, start_ray
from jobs.console import finish, headline_summary, progress
from jobs.recipes import RECIPES, recipe_named

if TYPE_CHECKING:
    from engine.training.learning import Learning


def train(
    recipe: Annotated[str, typer.Argument(help=f"Recipe: {', '.join(RECIPES)}.")],
    data: Annotated[Path, typer.Option(exists=True, help="Folder that `osteoray ingest --labels` wrote.")],
    out: Annotated[Path, typer.Option(help="Run folder; the same command again continues it.")],
    teacher: Annotated[
        Path | None,
        typer.Option(
            exists=True, help="Finished run to learn from, or what `osteoray record-teacher` wrote."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=1024, help="Ray Train workers; on GPUs one per GPU.")
    ] = 2,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each worker a GPU.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a field, e.g. schedule.epochs=3, objective.kl=5, distill=none, distill.kd=0.5.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Train a network and evaluate it on the held-out split.

    A student learns from --teacher with the loss terms of its recipe; `--set distill=none` trains it alone.
    After a kill, the same command continues at the last checkpoint.
    """
    chosen = complete(with_changes(recipe_named(recipe), set_ or []))
    cores = os.cpu_count() or 1
    if workers > cores and not is_joining():
        raise UsageError(f"{workers} workers need {workers} cores, this machine has {cores}: lower --workers")
    if chosen.distill and teacher is None:
        raise UsageError(f"recipe {recipe} distils: give --teacher RUN, or --set distill=none")
    if chosen.network.learns == "covariates" and not chosen.network.weights:
        raise UsageError(f"recipe {recipe} adds to a network: give --set weights=RUN/model.safetensors")
    with lease.hold(out):
        facts = run_training(
            chosen, data, out, teacher=teacher if chosen.distill else None, workers=workers, gpu=gpu
        )
    evaluation = facts["evaluation"]
    summary = {
        "run": str(out),
        **headline_summary(figures_from_facts(evaluation["figures"]).headline),
        "test_instances": evaluation["instances"],
        "parameters": facts["parameters"],
        "seconds": facts["seconds"],
    }
    finish("train", summary, as_json=json)


def complete(recipe: Recipe) -> Recipe:
    """The recipe with every parameter of its task's loss, all checked."""
    task = task_named(recipe.task).restricted(recipe.inputs.covariates)
    return changed(recipe, objective=objective_of(recipe, task.learning().parameters))


def run_training(
    recipe: Recipe, data: Path, out: Path, *, teacher: Path | None, workers: int, gpu: bool
) -> dict[str, Any]:
    """Train or continue a run whose lease is held, evaluate it, and return its facts."""
    facts = _facts(recipe, data, out, teacher)
    if facts["status"] == "done":
        return facts
    task = task_named(recipe.task).restricted(recipe.inputs.covariates)
    pack_images(data, out / "cache", task.labels)
    samples = open_training_set(data, out / "cache", task, recipe.inputs, recipe.split)
    if not recipe.inputs.hide_image:
        require_no_duplicates_across_splits(samples)  # what cannot be trained on ends here
    if teacher and is_cache(teacher):
        from engine.training.loop import recorded_for

        require_intact(teacher)
        recorded_for(samples, open_cache(teacher), recipe.distill)
    write_json(out / RUN_NAME, facts)
    from engine.training.on_ray import Workers, train_on_ray

    start_ray()
    if gpu:
        require_gpus(workers)
    crew = Workers(count=workers, threads=max((os.cpu_count() or 1) // workers, 1), gpu=gpu)
    earlier = sum(log["seconds"] for log in read_metrics(out))
    started = time.perf_counter()
    with _epoch_progress(out, recipe):
        train_on_ray(recipe, task, data, out, teacher=teacher, workers=crew)
    facts = _judged(facts, data, out, seconds=earlier + time.perf_counter() - started)
    write_json(out / RUN_NAME, facts)
    shutil.rmtree(out / "cache")
    return facts


def _facts(recipe: Recipe, data: Path, out: Path, teacher: Path | None) -> dict[str, Any]:
    """Facts of a new run, or of the one that is continued."""
    path = out / RUN_NAME
    started = {
        "recipe": recipe.facts(),
        "task": recipe.task,
        "data": {"folder": str(data.resolve()), **data_facts(data)},  # `export` may run elsewhere
        "teacher": _teacher_facts(teacher),
        "weights_sha256": _weights_digest(recipe.network.weights),
    }
    if path.exists():
        earlier = read_json(path)
        for name, value in started.items():
            if earlier.get(name) != value:
                raise TrainingError(f"{out} was begun with another {name}: choose another --out")
        return earlier
    return {**started, "code_version": code_version(), "status": "running", "seconds": 0.0}


def _teacher_facts(teacher: Path | None) -> dict[str, Any] | None:
    if teacher is None:
        return None
    if is_cache(teacher):
        cache = open_cache(teacher)
        _require_unchanged(cache)
        backbones = [one["backbone"] for one in cache.facts["teachers"]]
        return {
            "run": str(teacher.resolve()),
            "backbone": " + ".join(backbones),
            "sha256": cache.sha256,
            "recorded": True,
        }
    run = read_run(teacher)
    return {
        "run": str(teacher.resolve()),
        "backbone": run["model"]["backbone"],
        "sha256": sha256_of_file(teacher / WEIGHTS_NAME),
    }


def _require_unchanged(cache: TeacherCache) -> None:
    """Refuse a cache whose teachers were trained anew since; a run that is gone is not checked."""
    for one in cache.facts["teachers"]:
        weights = Path(one["run"]) / WEIGHTS_NAME
        if weights.exists() and sha256_of_file(weights) != one["sha256"]:
            raise TeacherCacheError(
                f"{one['run']} has other weights than {cache.folder} was recorded from: record it again"
            )


def _held_out_of(teacher: dict[str, Any] | None, samples: TrainingSet, learning: Learning) -> HeldOut | None:
    """What the teacher predicts on the test split: from the cache, or as its run left it."""
    from engine.evaluation.held_out import read_held_out
    from engine.training.evaluate import recorded_test_split

    if teacher is None:
        return None
    if teacher.get("recorded"):
        return recorded_test_split(open_cache(Path(teacher["run"])), samples, learning)
    path = Path(teacher["run"]) / EVALUATION_NAME
    return read_held_out(path) if path.is_file() else None


def _weights_digest(path: str) -> str | None:
    if not path:
        return None
    try:
        return sha256_of_file(Path(path))
    except OSError as error:
        raise UsageError(f"the weights {path} cannot be read ({error.strerror})") from error


def _judged(facts: dict[str, Any], data: Path, out: Path, *, seconds: float) -> dict[str, Any]:
    import torch

    from engine.models.network import load_model, num_parameters
    from engine.training.evaluate import evaluate, gigaflops, images_per_second

    torch.set_num_threads(os.cpu_count() or 1)
    recipe = recipe_from_facts(facts["recipe"])
    task = task_named(facts["task"]).restricted(recipe.inputs.covariates)
    samples = open_training_set(data, out / "cache", task, recipe.inputs, recipe.split)
    views = samples.images_NVHW.shape[1]
    model = model_of(recipe, task.covariates, views).facts()
    learning = task.learning()
    net = load_model(learning.network, model, out / WEIGHTS_NAME)
    size_HW = (samples.images_NVHW.shape[2], samples.images_NVHW.shape[3])
    return {
        **facts,
        "status": "done",
        "model": net.facts.facts(),
        "parameters": num_parameters(net),
        "seconds": round(seconds, 1),
        "gigaflops": round(gigaflops(net, size_HW), 4),
        **evaluate(
            net, samples, out, answer=task.answer, learning=learning,
            teacher=_held_out_of(facts["teacher"], samples, learning),
        ),
        "speed": {"images_per_second_eager": round(images_per_second(net, size_HW), 1)},
    }  # fmt: skip


@contextmanager
def _epoch_progress(out: Path, recipe: Recipe) -> Iterator[None]:
    """Follow metrics.jsonl, which rank 0 writes, while the training blocks."""
    stop = threading.Event()
    with progress(f"train {recipe.name}", "epochs") as report:

        def follow() -> None:
            while not stop.wait(0.5):
                report(epochs_logged(out), recipe.schedule.epochs)

        report(epochs_logged(out), recipe.schedule.epochs)
        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            report(epochs_logged(out), recipe.schedule.epochs)
