"""``osteoray ingest``: an archive of raw DICOM to model-ready samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from engine import sources
from engine.errors import NoLabelError, UsageError
from engine.imaging.boxes import Crop, read_boxes
from engine.ingest import deidentified
from engine.ingest.covariates import read_covariate_table, table_columns
from engine.ingest.shard import ReadSpec
from engine.store import lease, ledger, passed_over
from engine.store.files import code_version, sha256_of_facts, sha256_of_file
from engine.store.labels import read_label_table
from engine.tasks import TASKS, task_named
from jobs.cluster_session import cluster_cores, start_ray
from jobs.console import PARTIAL, finish, progress
from jobs.dry_run import dry_run as survey_only
from jobs.options import RunOptions, with_run_options
from jobs.plan import ManifestOf, begin, require_apart, require_instances, to_do, unfinished, waiting
from jobs.running import Run, read_limits, running
from jobs.salt import read_salt

LABELS_HELP = (
    "CSV with sop_instance_uid, the task's label column and, if wanted, split (train|test); for knee-age "
    "also pseudo_mean_months and pseudo_sd_months, made by `osteoray pseudo-label`."
)

MOST_SIDE_PX = 4096
_DIGITS = 6

DeidentifiedOption = Annotated[
    Path | None,
    typer.Option(
        "--deidentified",
        metavar="DIR",
        help="Also write a de-identified DICOM file of each sample below DIR.",
    ),
]
CropOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, metavar="BOXES", help="Show the network one region alone: table of `osteoray regions`."
    ),
]
EraseOption = Annotated[
    bool, typer.Option("--erase", help="Show all but the region of --crop, which becomes one grey.")
]


@with_run_options
def ingest(
    source: Annotated[str, typer.Argument(help=sources.FORMS)],
    task: Annotated[str, typer.Option(help=f"Question that decides what is read: {', '.join(TASKS)}.")],
    *,
    labels: Annotated[Path | None, typer.Option(exists=True, help=LABELS_HELP)] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|ROWSxCOLUMNS", help="Size of the network view in pixels, square or not."),
    ] = None,
    deidentified_to: DeidentifiedOption = None,
    crop: CropOption = None,
    region: Annotated[str, typer.Option(help="Region of --crop: hand, carpals, metacarpals.")] = "",
    erase: EraseOption = False,
    options: RunOptions,
) -> None:
    """Read an archive into Parquet samples for training.

    Every file ends as a sample, as filtered (not an image for this task) or as quarantined (unusable), with a
    reason code. With --incremental a changed file gets a row of a higher version; training and reports use
    the last version.

    Exit codes: 3 some files were quarantined, 4 more than --max-failures, 75 another run holds the folder,
    143 ended by SIGTERM. After each of them the same command continues.
    """
    question = task_named(task)
    facts, rule = question.facts(), question.rule
    if size:
        rule = replace(rule, view=replace(rule.view, size_HW=read_size(size)))
        facts = {**facts, "rule": rule.facts()}
    require_instances(
        (rule,), incremental=options.incremental, retry=options.retry, crop=crop, deidentified=deidentified_to
    )
    if options.dry_run:
        survey_only(source, rule, as_json=options.json)
    out = options.folder(source)
    if deidentified_to:
        require_shareable(source, out, deidentified_to)
    limits = read_limits(options)
    part = chosen_crop(crop, region, erase=erase)
    table = options.covariates
    given = read_covariate_table(table, question.covariates) if table else None
    spec = ReadSpec(
        source=source, folder=out, rules=(rule,), salt=read_salt(),
        label_names=question.label_columns if labels else (),
        labels=read_label_table(labels, question.labels) if labels else None,
        covariate_names=table_columns(question.covariates), covariates=given,
        deidentified=deidentified_to.resolve() if deidentified_to else None, crop=part,
    )  # fmt: skip
    manifest_of = partial(
        ingest_manifest, facts, source, labels, deidentified_to=deidentified_to, crop=part, covariates=table
    )
    with running(out, limits) as run, lease.hold(deidentified_to) if deidentified_to else nullcontext():
        if deidentified_to:
            deidentified.begin(deidentified_to)
        counts, speed = run_ingest(spec, manifest_of, options, run)
    exported = deidentified.counts(out) if deidentified_to else {}
    if labels:
        exported["labelled"] = require_labelled(out, question.label_columns, labels)
    code = PARTIAL if counts["quarantined"] else 0
    beside = passed_over.said(out / ledger.PLAN_NAME)
    summary = {"out": str(out), **counts, **exported, **beside, **speed}
    finish("ingest", summary, as_json=options.json, exit_code=code)


def require_labelled(folder: Path, columns: Sequence[str], labels: Path) -> int:
    """How many samples of a finished ingest have a label.

    Raises:
        UsageError: there are instances that could have one, and none has.
    """
    labelled = rows = 0
    for path in ledger.tables_of(folder, "samples"):
        table = ledger.read_table(path, columns)
        rows += table.num_rows
        labelled += sum(row != dict.fromkeys(columns) for row in table.to_pylist())
    for path in ledger.tables_of(folder, "filtered"):
        rows += ledger.read_table(path, ["reason"])["reason"].to_pylist().count(NoLabelError.reason)
    if rows and not labelled:
        raise UsageError(
            f"0 labelled of {rows} instances: the UIDs of {labels} are not those of this archive; mend it, "
            "and ingest to a new --out"
        )
    return labelled


def read_size(text: str) -> tuple[int, int]:
    """(rows, columns) of ``224`` or ``224x160``.

    Raises:
        UsageError: it is neither, or a number is not 1 to MOST_SIDE_PX.
    """
    rows, sign, columns = text.lower().partition("x")
    sizes = [rows, columns if sign else rows]
    if not all(word.isdecimal() and len(word) < _DIGITS and 0 < int(word) <= MOST_SIDE_PX for word in sizes):
        raise UsageError(
            f"--size takes one number or two up to {MOST_SIDE_PX}, as 224 or 224x160, not '{text}'"
        )
    return int(sizes[0]), int(sizes[1])


def chosen_crop(boxes: Path | None, region: str, *, erase: bool) -> Crop | None:
    """The region that is shown; None is the whole image.

    Raises:
        UsageError: a table without a region, or the other way round.
        TableError, UnknownNameError: see ``boxes.read_boxes``.
    """
    if bool(boxes) != bool(region) or (erase and not boxes):
        raise UsageError("--crop BOXES and --region NAME go together (and --erase with both)")
    if not boxes:
        return None
    read_boxes(boxes, region)  # what cannot be read ends here, not in the process that decodes
    return Crop(path=boxes.resolve(), region=region, erase=erase)


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
    *,
    crop: Crop | None = None,
    covariates: Path | None = None,
) -> dict[str, Any]:
    """What an ingest folder says of how it is made; a resumed job must say the same."""
    config = {
        "task": task,
        "shard_size": shard_size,
        "labels_sha256": sha256_of_file(labels) if labels else None,
    }
    if covariates:
        config["covariates_sha256"] = sha256_of_file(covariates)
    if deidentified_to:
        config["deidentified"] = str(deidentified_to.resolve())
    if crop:
        told = {"region": crop.region, "erase": crop.erase, "boxes_sha256": sha256_of_file(crop.path)}
        config["crop"] = told
    return {
        "kind": "ingest",
        "source": sources.identity(source),
        "config_sha256": sha256_of_facts(config),
        **config,
        "code_version": code_version(),
    }


def run_ingest(
    spec: ReadSpec, manifest_of: ManifestOf, options: RunOptions, run: Run
) -> tuple[dict[str, int], dict[str, Any]]:
    """Plan, begin or resume, ingest and close the folder that ``run`` holds; gives counts and speed.

    Raises:
        BudgetSpentError, StoppedError, LeaseLostError: the run ended early; what was finished is kept.
    """
    started = time.perf_counter()
    paced = replace(spec, pace=run.limits.pace(run.staging))
    listing = begin(paced, manifest_of, options.shard_size, is_moved=options.moved)
    before = unfinished(spec.folder) if options.incremental else None
    if before is not None:
        _ingest(paced, run, before)
    plan = to_do(paced, listing, incremental=options.incremental, retry=run.limits.retry)
    planned = time.perf_counter()
    counts = _ingest(paced, run, plan)
    done = time.perf_counter()
    speed = {"plan_s": round(planned - started, 1), "wall_s": round(done - planned, 1)}
    return counts, {**speed, **waiting(plan, listing)}


def _ingest(spec: ReadSpec, run: Run, plan: pa.Table) -> dict[str, int]:
    """Ingest what is missing of a plan, and close the folder."""
    from engine.ingest.on_ray import RunCallbacks
    from engine.ingest.on_ray import ingest as ingest_shards

    missing = ledger.missing_shards(spec.folder, plan)
    if missing or not ledger.is_complete(spec.folder):
        run.begin("ingest", plan, missing)
    if missing and not run.is_stopping():
        start_ray()
        with progress("ingest") as report, run.draining():
            callbacks = RunCallbacks(
                on_progress=report, on_shard=run.on_shard, on_failed=run.on_failed,
                is_stopping=run.is_stopping, readers=run.limits.readers or cluster_cores(),
            )  # fmt: skip
            ingest_shards(plan, spec, callbacks)
    run.require_whole(plan)
    exported = deidentified.closing_facts(spec.folder) if spec.deidentified else {}
    return ledger.close(spec.folder, plan, exported, run.staging, run.log)
