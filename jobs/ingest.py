"""``osteoray ingest``: an archive of raw DICOM to model-ready samples."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import books, sources
from engine.errors import UsageError
from engine.labels import read_labels
from engine.manifest import code_version, sha256_of_facts, sha256_of_file
from engine.shard import ReadSpec
from engine.tasks import task_named
from jobs.cluster_session import start_ray
from jobs.console import finish, progress
from jobs.salt import read_salt

QUARANTINED = 3


def ingest(
    source: Annotated[str, typer.Argument(help="Folder of DICOM files, nested at will, any file names.")],
    task: Annotated[str, typer.Option(help="Clinical question that decides what is read and how: hand-age.")],
    out: Annotated[Path, typer.Option(help="Folder for samples; the same command again resumes it.")],
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
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False,
) -> None:
    """Read an archive into Parquet samples that training and other tools can use.

    Every file ends as a sample, as filtered (sound, but not for this task) or as quarantined (unusable), with
    a reason code. Exit code 3 says that some were quarantined.
    """
    require_apart(source, out)
    facts = task_named(task).facts()
    rule = task_named(task).rule
    if size:
        rule = replace(rule, view=replace(rule.view, size_HW=(size, size)))
        facts = {**facts, "rule": rule.facts()}
    label_names = (facts["label"],) if labels else ()
    spec = ReadSpec(
        source=source, folder=out, rule=rule, salt=read_salt(), label_names=label_names,
        labels=read_labels(labels, label_names) if labels else None,
    )  # fmt: skip
    manifest = ingest_manifest(facts, source, labels, shard_size)
    with books.lease(out):
        counts, speed = run_ingest(spec, manifest, shard_size)
    code = QUARANTINED if counts["quarantined"] else 0
    finish("ingest", {"out": str(out), **counts, **speed}, as_json=json, exit_code=code)


def require_apart(source: str, out: Path) -> None:
    """Refuse to write into the archive: a resumed job would find its own files there.

    Raises:
        UsageError: ``out`` lies in ``source``, or is it.
    """
    if out.resolve().is_relative_to(Path(source).resolve()):
        raise UsageError(f"{out} lies in the archive {source}: choose an --out beside it")


def ingest_manifest(
    task: dict[str, Any], source: str, labels: Path | None, shard_size: int
) -> dict[str, Any]:
    """What an ingest folder says of how it is made; a resumed job must say the same."""
    config = {
        "task": task,
        "shard_size": shard_size,
        "labels_sha256": sha256_of_file(labels) if labels else None,
    }
    return {
        "kind": "ingest",
        "source": str(Path(source).resolve()),
        "config_sha256": sha256_of_facts(config),
        **config,
        "code_version": code_version(),
    }


def run_ingest(
    spec: ReadSpec, manifest: dict[str, Any], shard_size: int
) -> tuple[dict[str, int], dict[str, float]]:
    """Plan, begin or resume, ingest and close a folder whose lease is held; gives counts and speed."""
    from engine.pipeline import ingest as ingest_shards

    plan = sources.plan(spec.source, shard_size)
    books.begin(spec.folder, manifest)
    books.write_plan(spec.folder, plan)
    started = time.perf_counter()
    if books.missing_shards(spec.folder, plan):
        start_ray()
        with progress("ingest") as report:
            ingest_shards(plan, spec, report)
    wall_s = time.perf_counter() - started
    counts = books.close(spec.folder, plan, {})
    return counts, {"wall_s": round(wall_s, 1)}
