"""``osteoray ingest``: an archive of raw DICOM to model-ready samples."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from engine import books, deidentified, sources
from engine.errors import UsageError
from engine.labels import read_labels
from engine.manifest import code_version, sha256_of_facts, sha256_of_file
from engine.shard import ReadSpec
from engine.tasks import task_named
from jobs.cluster_session import start_ray
from jobs.console import finish, progress
from jobs.dry_run import dry_run as survey_only
from jobs.plan import begun_plan
from jobs.salt import read_salt

QUARANTINED = 3


def ingest(
    source: Annotated[str, typer.Argument(help=sources.FORMS)],
    task: Annotated[str, typer.Option(help="Clinical question that decides what is read and how: hand-age.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for samples; the same command again resumes it.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with sop_instance_uid, the task's label column and, if wanted, split (train|test)."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the square network view in pixels.")
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Instances in one shard, the unit of resuming.")
    ] = 512,
    deidentified_to: Annotated[
        Path | None,
        typer.Option(
            "--deidentified",
            metavar="DIR",
            help="Also write a de-identified DICOM file of each sample below DIR.",
        ),
    ] = None,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="Take into a finished --out what is new or changed in SOURCE since then."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what SOURCE holds, from headers; write nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False,
) -> None:
    """Read an archive into Parquet samples that training and other tools can use.

    Every file ends as a sample, as filtered (sound, but not for this task) or as quarantined (unusable), with
    a reason code. Exit code 3 says that some were quarantined. With --incremental a file that changed gets a
    row of a higher version, and its earlier rows stay; training and reports use the last version.
    """
    facts = task_named(task).facts()
    rule = task_named(task).rule
    if size:
        rule = replace(rule, view=replace(rule.view, size_HW=(size, size)))
        facts = {**facts, "rule": rule.facts()}
    if dry_run:
        survey_only(source, rule, as_json=json)
    if out is None:
        raise UsageError("name a folder for the samples: --out DIR (or look first, with --dry-run)")
    require_apart(source, out)
    if deidentified_to:
        require_shareable(source, out, deidentified_to)
    label_names = (facts["label"],) if labels else ()
    spec = ReadSpec(
        source=source, folder=out, rule=rule, salt=read_salt(), label_names=label_names,
        labels=read_labels(labels, label_names) if labels else None,
        deidentified=deidentified_to.resolve() if deidentified_to else None,
    )  # fmt: skip
    manifest = ingest_manifest(facts, source, labels, shard_size, deidentified_to)
    with books.lease(out), books.lease(deidentified_to) if deidentified_to else nullcontext():
        if deidentified_to:
            deidentified.begin(deidentified_to)
        counts, speed = run_ingest(spec, manifest, shard_size, incremental=incremental)
    exported = deidentified.counts(out) if deidentified_to else {}
    code = QUARANTINED if counts["quarantined"] else 0
    finish("ingest", {"out": str(out), **counts, **exported, **speed}, as_json=json, exit_code=code)


def require_apart(source: str, out: Path) -> None:
    """Refuse to write into the archive: a resumed job would find its own files there.

    Raises:
        UsageError: ``out`` lies in ``source``, or is it.
    """
    root = sources.local_root(source)
    if root is not None and out.resolve().is_relative_to(root):
        raise UsageError(f"{out} lies in the archive {source}: choose an --out beside it")


def require_shareable(source: str, out: Path, deidentified_to: Path) -> None:
    """Refuse to mix de-identified files with the archive, or with tables that hold original UIDs.

    Raises:
        UsageError: one of the folders lies in another one.
    """
    require_apart(source, deidentified_to)
    here, there = deidentified_to.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(
            f"{deidentified_to} and {out} lie in each other: choose a --deidentified beside --out"
        )


def ingest_manifest(
    task: dict[str, Any],
    source: str,
    labels: Path | None,
    shard_size: int,
    deidentified_to: Path | None = None,
) -> dict[str, Any]:
    """What an ingest folder says of how it is made; a resumed job must say the same."""
    config = {
        "task": task,
        "shard_size": shard_size,
        "labels_sha256": sha256_of_file(labels) if labels else None,
    }
    if deidentified_to:
        config["deidentified"] = str(deidentified_to.resolve())
    return {
        "kind": "ingest",
        "source": sources.identity(source),
        "config_sha256": sha256_of_facts(config),
        **config,
        "code_version": code_version(),
    }


def run_ingest(
    spec: ReadSpec, manifest: dict[str, Any], shard_size: int, *, incremental: bool = False
) -> tuple[dict[str, int], dict[str, float]]:
    """Plan, begin or resume, ingest and close a folder whose lease is held; gives counts and speed."""
    started = time.perf_counter()
    plan = begun_plan(spec, manifest, shard_size, grow=partial(_ingest, spec) if incremental else None)
    planned = time.perf_counter()
    counts = _ingest(spec, plan)
    done = time.perf_counter()
    return counts, {"plan_s": round(planned - started, 1), "wall_s": round(done - planned, 1)}


def _ingest(spec: ReadSpec, plan: pa.Table) -> dict[str, int]:
    """Ingest what is missing of a plan, and close the folder."""
    from engine.pipeline import ingest as ingest_shards

    if books.missing_shards(spec.folder, plan):
        start_ray()
        with progress("ingest") as report:
            ingest_shards(plan, spec, report)
    return books.close(spec.folder, plan, {})
