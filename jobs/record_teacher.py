"""``osteoray record-teacher``: a teacher's outputs for every sample, computed once for all trainings."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from engine.distillation import teacher_cache
from engine.distillation.teacher_cache import KIND, OUTPUTS
from engine.errors import TrainingError, UsageError
from engine.evaluation.held_out import read_held_out
from engine.ingest.samples_folder import data_facts
from engine.store import lease, ledger
from engine.store.files import code_version, sha256_of_facts, sha256_of_file
from engine.tasks import task_named
from engine.training.record_teacher import RecordSpec, open_teachers, require_outputs, sample_shards
from engine.training.run_folder import EVALUATION_NAME, WEIGHTS_NAME, read_run
from jobs.cluster_session import require_gpus, start_ray
from jobs.console import finish, headline_summary, progress

_OF_ONE = ("logits", "embedding", "attention", "features")
_OF_MANY = ("logits",)
_OF_VIEWS = ("logits", "embedding")


def record_teacher(
    runs: Annotated[
        list[Path], typer.Argument(exists=True, metavar="RUN...", help="Finished runs; several are averaged.")
    ],
    data: Annotated[
        Path,
        typer.Option(exists=True, help="Folder that `osteoray ingest` wrote, with the view of the runs."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="CACHE", help="Folder to write; the same command again resumes it.")
    ],
    outputs: Annotated[
        str | None, typer.Option(help=f"What to record, joined by commas: {', '.join(OUTPUTS)}.")
    ] = None,
    passes: Annotated[
        int,
        typer.Option(
            min=1,
            max=64,
            help="Test-time augmentation: how many copies of each image are averaged, the first unchanged.",
        ),
    ] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run the networks on a GPU.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Record a teacher's outputs for all samples, for `osteoray train --teacher CACHE`.

    Several runs, or several passes over each image, are averaged. The last line shows the error of what was
    recorded on the instances that the first run held out. The view may differ from the student's, such as a
    crop: attention maps are moved to where the student sees them.
    """
    spec = record_spec(runs, data, out, outputs, passes=passes, gpu=gpu)
    with lease.hold(out):
        counts, seconds = run_recording(spec)
    summary = {
        "out": str(out),
        **counts,
        "outputs": ",".join(spec.outputs),
        **held_out_error(out, runs[0]),
        "megabytes": round(sum(path.stat().st_size for path in (out / "shards").iterdir()) / 1e6, 1),
        "seconds": round(seconds, 1),
    }
    finish("record-teacher", summary, as_json=json)


def record_spec(
    runs: Sequence[Path],
    data: Path,
    out: Path,
    outputs: str | None = None,
    *,
    passes: int = 1,
    gpu: bool = False,
) -> RecordSpec:
    """What is to be recorded, checked before any work.

    Raises:
        UsageError: a run was trained on another view, or cannot give an output.
        TrainingError: a run has not finished, or is of another task than the first.
    """
    seen = data_facts(data)
    facts = [read_run(run) for run in runs]
    for run, one in zip(runs, facts, strict=True):
        if one["task"] != facts[0]["task"]:
            raise TrainingError(f"{run} is of the task {one['task']}, {runs[0]} of {facts[0]['task']}")
        if _seen(one["data"]) != _seen(seen):
            raise UsageError(
                f"{run} was trained on another view than that of {data}: ingest with the run's own"
            )
    import torch

    task = task_named(facts[0]["task"])
    nets = open_teachers(runs, task.learning().network, torch.device("cpu"))
    is_one = len(nets) == 1
    default = (_OF_ONE if nets[0].facts.num_views == 1 else _OF_VIEWS) if is_one else _OF_MANY
    names = [name.strip() for name in outputs.split(",")] if outputs else list(default)
    require_outputs(names, nets)
    return RecordSpec(
        data=data.resolve(),
        folder=out.resolve(),
        runs=tuple(run.resolve() for run in runs),
        task=task,
        facts=_manifest(
            runs, facts, seen, [name for name in OUTPUTS if name in names], nets[0].channels, passes
        ),
        device="cuda" if gpu else "cpu",
    )


def run_recording(spec: RecordSpec) -> tuple[dict[str, int], float]:
    """Write or go on with a cache whose lease is held; gives counts and seconds."""
    started = time.perf_counter()
    shards = sample_shards(spec.data)
    if not shards:
        raise UsageError(f"{spec.data} holds no sample")
    ledger.begin(spec.folder, spec.facts)
    if teacher_cache.missing_shards(spec.folder, len(shards)):
        from engine.training.record_on_ray import record

        start_ray()
        actors = os.cpu_count() or 1
        if spec.device != "cpu":
            require_gpus()
            actors = 1
        with progress("record-teacher", "samples") as report:
            record(shards, spec, actors, report)
    return teacher_cache.close(spec.folder, len(shards)), time.perf_counter() - started


def held_out_error(cache: Path, run: Path) -> dict[str, Any]:
    """The headline of what was recorded of the instances that ``run`` held out; nothing where there are none.

    Raises:
        TableError: the run's own predictions are damaged.
    """
    if not (run / EVALUATION_NAME).is_file():
        return {}
    from engine.training.evaluate import answered, recorded

    facts, opened = read_run(run), teacher_cache.open_cache(cache)
    task, held = task_named(facts["task"]), read_held_out(run / EVALUATION_NAME)
    held = held.chosen(np.array([uid in opened.place_of for uid in held.uids_N], bool))
    if not len(held.uids_N):
        return {}
    learning = task.learning()
    held = replace(held, raw=recorded(opened, held.uids_N.tolist(), learning))
    headline = task.answer.figures(answered(held, task.answer, learning, facts["calibration"]), {}).headline
    return {**headline_summary(headline), "test_instances": len(held.uids_N)}


def _seen(data: dict[str, Any]) -> list[Any]:
    """What a network sees of an instance: the steps of its view, and the region of each view."""
    crops = [view["crop"] or {} for view in data.get("views", [{"crop": data.get("crop")}])]
    return [data["rule"]["view"], *((crop.get("region"), bool(crop.get("erase"))) for crop in crops)]


def _manifest(
    runs: Sequence[Path],
    facts: Sequence[dict[str, Any]],
    seen: dict[str, Any],
    outputs: list[str],
    channels: Sequence[int],
    passes: int,
) -> dict[str, Any]:
    teachers = [
        {
            "run": str(run.resolve()),
            "backbone": one["model"]["backbone"],
            "sha256": sha256_of_file(run / WEIGHTS_NAME),
        }
        for run, one in zip(runs, facts, strict=True)
    ]
    config = {
        "teachers": [teacher["sha256"] for teacher in teachers],
        "outputs": outputs,
        "passes": passes,
        "view_sha256": sha256_of_facts([seen["rule"], seen.get("crop"), seen.get("views")]),
        "data_sha256": seen["sha256"],
    }
    return {
        "kind": KIND,
        "config_sha256": sha256_of_facts(config),
        "task": facts[0]["task"],
        "num_bins": facts[0]["model"]["num_bins"],
        "channels": list(channels) if "features" in outputs else [],
        "teachers": teachers,
        "outputs": outputs,
        "passes": passes,
        "rule": seen["rule"],
        "view_sha256": config["view_sha256"],
        "data_sha256": seen["sha256"],
        "code_version": code_version(),
    }
