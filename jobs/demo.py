"""`osteoray demo`: the whole path on a small synthetic archive, with the functions of the verbs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.deploy.bundle import BUNDLE_NAME, Bundle, open_bundle
from engine.evaluation import caveats
from engine.ingest.shard import ReadSpec
from engine.sources.names import LABELS_NAME
from engine.store import lease
from engine.store.files import MANIFEST_NAME, read_json
from engine.store.labels import read_label_table
from engine.tasks import task_named
from engine.training.recipe import Recipe, with_changes
from jobs.console import finish, progress
from jobs.export import run_export
from jobs.ingest import ingest_manifest, run_ingest
from jobs.options import MOST, RunOptions
from jobs.recipes import recipe_named
from jobs.report import REPORT_NAME, score_page, write_page
from jobs.running import running
from jobs.salt import read_salt
from jobs.score import Request, run_score
from jobs.train import run_training

TASK = "hand-age"
SHARD_SIZE = 128
STUDENT_ALONE = "student-alone"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("runs/demo"),
    count: Annotated[
        int, typer.Option(min=100, max=MOST, help="How many synthetic radiographs to draw.")
    ] = 800,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of all three recipes, e.g. epochs=2.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for scripts.")] = False,
) -> None:
    """Draw an archive, ingest, train, distil, export, score and report; last, show how to start the server.

    Everything is synthetic: the errors say nothing about real radiographs. After a kill, the same command
    continues.
    """
    out.mkdir(parents=True, exist_ok=True)
    archive, data = _archive(out / "archive", count), out / "samples"
    _ingest(archive, data)
    runs = _train_all(data, out / "runs", set_ or [])
    bundle = _export(out)
    scores = out / "scores"
    counts = _score(archive, bundle, scores)
    page = _report(scores, archive, runs)
    speed = _speeds(out / "runs" / "teacher", bundle, data)
    errors = {
        f"{name}_mae_months": round(facts["evaluation"]["figures"]["headline"]["value"], 2)
        for name, facts in runs.items()
    }
    summary = {
        **{key.replace("-", "_"): value for key, value in errors.items()},
        **speed,
        **counts,
        "report": str(page),
        "serve": f"osteoray serve --model {bundle.folder}",
    }
    finish("demo", summary, as_json=json, warnings=caveats.of_scores(read_json(scores / MANIFEST_NAME)))


def _archive(folder: Path, count: int) -> Path:
    from engine.datasets.phantom.archive import write_archive
    from jobs.phantom import PHANTOMS

    if not (folder / LABELS_NAME).exists():
        with progress("phantom") as report:
            write_archive(PHANTOMS[TASK], folder, count=count, seed=1, faults=True, on_progress=report)
    return folder


def _ingest(archive: Path, data: Path) -> None:
    task, labels = task_named(TASK), archive / LABELS_NAME
    manifest_of = partial(ingest_manifest, task.facts(), str(archive), labels)
    spec = ReadSpec(
        source=str(archive), folder=data, rules=(task.rule,), salt=read_salt(),
        label_names=task.label_columns, labels=read_label_table(labels, task.labels),
    )  # fmt: skip
    with running(data) as run:
        run_ingest(spec, manifest_of, RunOptions(shard_size=SHARD_SIZE), run)


def _train_all(data: Path, folder: Path, changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Facts of the teacher, the distilled student, and the same student trained alone."""
    teacher, student = recipe_named("demo-teacher"), recipe_named("demo-student")
    alone = with_changes(student, ["distill=none", f"name={STUDENT_ALONE}"])
    plans: list[tuple[str, Recipe, Path | None]] = [
        ("teacher", teacher, None),
        ("student", student, folder / "teacher"),
        (STUDENT_ALONE, alone, None),
    ]
    facts = {}
    for name, recipe, taught_by in plans:
        run = folder / name
        with lease.hold(run):
            facts[name] = run_training(
                with_changes(recipe, changes), data, run, teacher=taught_by, workers=2, gpu=False
            )
    return facts


def _export(out: Path) -> Bundle:
    folder = out / "bundle"
    if (folder / BUNDLE_NAME).exists():
        return open_bundle(folder)
    return run_export(out / "runs" / "student", folder, "auto")


def _score(archive: Path, bundle: Bundle, out: Path) -> dict[str, Any]:
    spec = ReadSpec(
        source=str(archive), folder=out, rules=(bundle.rule,), tasks=(bundle.task,), salt=read_salt()
    )
    with running(out) as run:
        counts, speed = run_score(spec, (bundle,), run, Request(shard_size=SHARD_SIZE))
    return {**counts, "archive_images_per_second": speed["images_per_second"]}


def _report(scores: Path, archive: Path, runs: Mapping[str, Mapping[str, Any]]) -> Path:
    folders = {name: scores.parent / "runs" / name for name in runs}
    html = score_page(scores, labels=archive / LABELS_NAME, compare=folders)
    return write_page(html, scores / REPORT_NAME)


def _speeds(teacher: Path, bundle: Bundle, data: Path) -> dict[str, float]:
    """Images per second of the eager teacher and the compiled student, measured one after the other."""
    import torch

    from engine.deploy.engines import open_predictor
    from engine.deploy.export import images_per_second as compiled_speed
    from engine.deploy.parity import parity_samples
    from engine.training.evaluate import images_per_second as eager_speed
    from engine.training.run_folder import load_net

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    samples = parity_samples(data, 64, bundle.covariates)
    eager = eager_speed(load_net(teacher, task_named(TASK).learning().network), bundle.rule.view.size_HW)
    compiled = compiled_speed(open_predictor(bundle.folder, bundle.engine, threads=threads), samples)
    return {
        "teacher_eager_images_per_second": round(eager, 1),
        "student_compiled_images_per_second": round(compiled, 1),
        "compiled_over_eager": round(compiled / eager, 1),
    }
