"""`osteoray score`: scores a whole archive, resumable, each instance exactly once a task."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args
from uuid import uuid4

import pyarrow as pa
import typer

from engine import sources
from engine.deploy import archive_alarm
from engine.deploy.bundle import Bundle, open_bundle
from engine.deploy.engines import choose_engine, gpus_of
from engine.deploy.signature import require_known
from engine.errors import UnknownNameError, UsageError
from engine.evaluation import caveats
from engine.ingest import reuse
from engine.ingest.covariates import read_covariate_table, table_columns
from engine.ingest.routing import Open
from engine.ingest.shard import ReadSpec
from engine.store import ledger, passed_over
from engine.store.counts import Counts, shown
from engine.store.files import MANIFEST_NAME, code_version, read_json, sha256_of_facts
from jobs.cluster_session import cluster_cores, is_joining, require_gpus, start_ray
from jobs.console import FOREIGN, PARTIAL, finish, progress
from jobs.deliver import delivered_to_all, is_partial, require_sinks
from jobs.dry_run import score_dry_run
from jobs.options import PinOption, RunOptions, TrustedOption, with_run_options
from jobs.plan import begin, require_instances, to_do, unfinished, waiting
from jobs.report import REPORT_NAME, score_page, write_page
from jobs.running import Run, read_limits, running
from jobs.salt import check_of, read_salt

if TYPE_CHECKING:
    from engine.deploy.on_ray import RunStats

# One compiled student keeps up with this many cores that decode.
CORES_PER_PREDICTOR = 8

ROUTE_HELP = (
    "Which bundles score an instance whose BodyPartExamined names the body part of none: all that accept it, "
    "the first of them, or none (named)."
)
FOREIGN_HELP = "Give scores of an archive whose first films are unlike the training images, too."
REPORT_HELP = "Write OUT/report.html when all is scored."
DELIVER_HELP = "Deliver there when all is scored (see `osteoray deliver --to`); may be repeated."


@with_run_options
def score(
    source: Annotated[str, typer.Argument(help=sources.FORMS)],
    model: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            metavar="BUNDLE",
            help="Folder that `osteoray export` wrote; may be repeated, one a task.",
        ),
    ],
    *,
    engine: Annotated[str | None, typer.Option(help="Use this engine, not the one of the bundle.")] = None,
    route: Annotated[str, typer.Option(metavar="all|first|named", help=ROUTE_HELP)] = "all",
    trusted: TrustedOption = None,
    pin: PinOption = None,
    resume: Annotated[
        bool,
        typer.Option(help="Continue an earlier run of the same command; --no-resume refuses to."),
    ] = True,
    reuse_from: Annotated[
        list[Path] | None,
        typer.Option(
            "--reuse",
            metavar="DIR",
            exists=True,
            help="Take the results of this earlier score folder where the bytes are the same.",
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help=REPORT_HELP)] = False,
    deliver: Annotated[list[str] | None, typer.Option(metavar="SINK", help=DELIVER_HELP)] = None,
    accept_foreign: Annotated[bool, typer.Option("--accept-foreign", help=FOREIGN_HELP)] = False,
    options: RunOptions,
) -> None:
    """Score an archive. Every file ends as scored, filtered, abstained or quarantined, with a reason code.

    With several bundles each file is read once. Of the bundles that accept it, those whose body part the
    header names score it; where it names none of them, --route decides. There is one table of predictions a
    task, and the counts add up for each task.

    Where the first films of the archive are unlike the training images, no score is given (exit code 5).

    After a kill, the same command continues: no row is lost or doubled. Exit codes: 3 some files were
    quarantined or some results not delivered, 4 more failures than --max-failures, 75 another run holds the
    folder, 143 ended by SIGTERM. After each of them the same command continues.
    """
    bundles, where_open = opened_bundles(model, engine), read_route(route)
    require_known(bundles, trusted, pin or ())
    rules = tuple(bundle.rule for bundle in bundles)
    require_instances(rules, incremental=options.incremental, retry=options.retry, reuse=reuse_from)
    if options.dry_run:
        score_dry_run(source, bundles, options.shard_size, route=where_open, as_json=options.json)
    out = options.folder(source)
    if deliver:  # what writes reports is slow to import
        require_sinks(deliver)
    limits = read_limits(options)
    taken = [covariate for bundle in bundles for covariate in bundle.covariates]
    given = read_covariate_table(options.covariates, taken) if options.covariates else None
    spec = ReadSpec(
        source=source, folder=out, rules=rules, route=where_open,
        tasks=tuple(bundle.task for bundle in bundles), salt=read_salt(),
        covariate_names=table_columns(taken), covariates=given,
    )  # fmt: skip
    request = Request(
        shard_size=options.shard_size,
        resume=resume,
        incremental=options.incremental,
        is_moved=options.moved,
        reuse=tuple(reuse_from or ()),
        accept_foreign=accept_foreign,
    )
    with running(out, limits) as run:
        counts, speed = run_score(spec, bundles, run, request)
    handed_on = _hand_on(out, deliver or (), has_report=report)
    sent = handed_on.get("delivered", {})
    manifest = read_json(out / MANIFEST_NAME)
    code = PARTIAL if has_quarantined(counts) or any(map(is_partial, sent.values())) else 0
    code = FOREIGN if caveats.is_withheld(manifest) else code
    beside = passed_over.said(out / ledger.PLAN_NAME)
    summary = {"out": str(out), **counts, **beside, **speed, **handed_on}
    finish("score", summary, as_json=options.json, exit_code=code, warnings=caveats.of_scores(manifest))


def _hand_on(out: Path, sinks: Sequence[str], *, has_report: bool) -> dict[str, Any]:
    """Page and deliveries of a finished folder, and the head of its audit log; gives what became of each."""
    facts: dict[str, Any] = {"audit_sha256": read_json(out / MANIFEST_NAME).get(ledger.AUDIT_HEAD)}
    if has_report:  # before the sinks: one that is down must not cost the page
        facts["report"] = str(write_page(score_page(out), out / REPORT_NAME))
    if sinks:
        facts["delivered"] = delivered_to_all(out, sinks)
    return facts


def has_quarantined(counts: Counts) -> bool:
    """Whether some instances were quarantined, for any task."""
    return any(of_one["quarantined"] for of_one in counts.get("tasks", {"": counts}).values())


def read_route(word: str) -> Open:
    """What ``--route`` asks for.

    Raises:
        UnknownNameError: it is no word of ``routing.Open``.
    """
    for known in get_args(Open):
        if word == known:
            return cast(Open, known)
    raise UnknownNameError("route", word, get_args(Open))


def opened_bundles(folders: Sequence[Path], engine: str | None) -> tuple[Bundle, ...]:
    """The bundles in the order given, each with the engine that is to run it.

    Raises:
        UsageError: two are of one task: there is one table of predictions a task.
        BundleError, TableError: one is incomplete or was changed.
        MissingDependencyError: the engine is not installed, or there is no GPU for it.
    """
    opened = [open_bundle(folder) for folder in folders]
    here = not is_joining()
    bundles = tuple(
        replace(bundle, engine=choose_engine(engine or bundle.engine, here=here)) for bundle in opened
    )
    task, count = Counter(bundle.task for bundle in bundles).most_common(1)[0]
    if count > 1:
        raise UsageError(
            f"{count} bundles are of task {task}, and a run has one table of predictions a task: "
            "score with one after the other, and hold the folders against each other with `osteoray compare`"
        )
    return bundles


def score_manifest(
    source: str,
    bundles: Sequence[Bundle],
    shard_size: int,
    *,
    route: Open = "all",
    covariates_sha256: str | None = None,
    accept_foreign: bool = False,
) -> dict[str, Any]:
    """What a score folder says of how it is made; a resumed job must say the same."""
    config = {
        "models": _chosen(bundles),
        "shard_size": shard_size,
        "route": route,
        "covariates_sha256": covariates_sha256,
        "accept_foreign": accept_foreign,
    }
    return {
        "kind": "score",
        "source": sources.identity(source),
        "config_sha256": sha256_of_facts(config),
        "config": config,
        "models": [{**bundle.facts, "model_sha256": bundle.sha256} for bundle in bundles],
        "code_version": code_version(),
    }


def _digest_of(covariates: Mapping[str, Any] | None) -> str | None:
    """Digest of the values of a covariate table; None without one."""
    return None if covariates is None else sha256_of_facts(covariates)


def _chosen(bundles: Sequence[Bundle]) -> list[dict[str, str]]:
    return [{"model_sha256": bundle.sha256, "engine": bundle.engine} for bundle in bundles]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How a folder is begun, gone on with, or grown, and which earlier folders lend their rows."""

    shard_size: int | None = None
    resume: bool = True
    incremental: bool = False
    is_moved: bool = False
    reuse: tuple[Path, ...] = ()
    accept_foreign: bool = False


def run_score(
    spec: ReadSpec, bundles: tuple[Bundle, ...], run: Run, request: Request
) -> tuple[Counts, dict[str, Any]]:
    """Plan, begin or resume, score and close the folder that ``run`` holds; gives counts and speed.

    Counts of a single task are flat.

    Raises:
        BudgetSpentError, StoppedError, LeaseLostError: the run ended early; what was finished is kept.
    """
    if not request.resume and (spec.folder / MANIFEST_NAME).exists():
        raise UsageError(f"{spec.folder} holds an earlier run: choose another --out, or allow --resume")
    salt_check = check_of(spec.salt)
    config = {"models": _chosen(bundles), "covariates_sha256": _digest_of(spec.covariates)}
    for folder in request.reuse:
        reuse.require_same(folder, {"config": config, "salt_check": salt_check})
    paced = replace(spec, pace=run.limits.pace(run.staging))
    scoring = _Scoring(paced, bundles, run, request)
    manifest_of = partial(
        score_manifest, spec.source, bundles, route=spec.route,
        covariates_sha256=_digest_of(spec.covariates), accept_foreign=request.accept_foreign,
    )  # fmt: skip
    listing = begin(paced, manifest_of, request.shard_size, is_moved=request.is_moved)
    before = unfinished(spec.folder) if request.incremental else None
    if before is not None:
        scoring.finish(before)
    plan = to_do(paced, listing, incremental=request.incremental, retry=run.limits.retry)
    counts, speed = scoring.finish(plan)
    return counts, {**speed, **waiting(plan, listing)}


@dataclass(frozen=True, slots=True)
class _Scoring:
    """All that scoring the missing shards of a plan needs to know."""

    spec: ReadSpec
    bundles: tuple[Bundle, ...]
    run: Run
    request: Request

    def finish(self, plan: pa.Table) -> tuple[Counts, dict[str, Any]]:
        """Score what is missing of a plan, and close the folder."""
        folder, run = self.spec.folder, self.run
        missing = ledger.missing_shards(folder, plan)
        if missing or not ledger.is_complete(folder):
            run.begin("score", plan, missing)
        speed: dict[str, Any] = {"wall_s": 0.0, "images_per_second": 0.0, "scored_this_run": 0, "reused": 0}
        if missing and not run.is_stopping():
            speed = self._score(plan, missing)
        run.require_whole(plan)
        speed["kept"] = plan.num_rows - speed["scored_this_run"]
        counts = ledger.close(folder, plan, {"speed": speed}, run.staging, run.log)
        if not speed["scored_this_run"]:  # nothing was left to do: show the speed of the run that did it
            earlier = read_json(folder / MANIFEST_NAME)["speed"]
            speed["images_per_second"] = earlier["images_per_second"]
        return shown(counts), speed

    def _score(self, plan: pa.Table, missing: list[int]) -> dict[str, Any]:
        from engine.deploy.on_ray import ScoreSpec
        from engine.deploy.on_ray import score as score_shards
        from engine.ingest.on_ray import RunCallbacks

        start_ray()
        cores = cluster_cores()
        engines = tuple(bundle.engine for bundle in self.bundles)
        actors = require_gpus() if gpus_of(engines) else max(cores // CORES_PER_PREDICTOR, 1)
        readers = self.run.limits.readers or cores
        scoring = ScoreSpec(
            bundles=tuple(bundle.folder.resolve() for bundle in self.bundles),
            sha256s=tuple(bundle.sha256 for bundle in self.bundles),
            engines=engines,
            actors=actors,
        )
        spec = replace(self.spec, known=self._index())
        run = self.run
        started = time.perf_counter()
        with progress("score") as report, run.draining():
            callbacks = RunCallbacks(
                on_progress=report, on_shard=run.on_shard, on_failed=run.on_failed,
                is_stopping=run.is_stopping, readers=readers,
            )  # fmt: skip
            stats = score_shards(plan, spec, scoring, callbacks, self._gate(plan, missing))
        wall_s = time.perf_counter() - started
        return {
            "wall_s": round(wall_s, 2),
            "images_per_second": round(stats.ended / wall_s, 1),
            "scored_this_run": stats.ended,
            "reused": stats.reused,
            **stages(stats, wall_s, readers=readers, actors=actors),
        }

    def _gate(self, plan: pa.Table, missing: list[int]) -> archive_alarm.Gate:
        """What holds shards back until the archive is judged; what it finds goes into manifest and log."""
        from engine.ingest.on_ray import order_of

        folder, run, is_accepted = self.spec.folder, self.run, self.request.accept_foreign

        def note(found: Mapping[str, archive_alarm.Finding]) -> None:
            facts = archive_alarm.facts_of(found, is_accepted=is_accepted)
            ledger.state(folder, {"archive": facts}, run.staging)
            run.log.note("archive_judged", **facts)

        sizes = {row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()}
        return archive_alarm.Gate(
            order_of(missing), sizes, archive_alarm.checked(self.bundles),
            known=archive_alarm.findings_from_facts(read_json(folder / MANIFEST_NAME).get("archive")),
            on_found=note, is_accepted=is_accepted,
        )  # fmt: skip

    def _index(self) -> Path | None:
        """Where the rows of this folder and of the lenders are found by their bytes; None without rows.

        The bytes of one slice do not tell a series: with a task of series all is read.
        """
        if any(rule.grain == "series" for rule in self.spec.rules):
            return None
        index = self.run.staging / f"known-{uuid4().hex}"
        models = {bundle.sha256: bundle.task for bundle in self.bundles}
        return index if reuse.write_index(index, [self.spec.folder, *self.request.reuse], models) else None


def stages(stats: RunStats, wall_s: float, *, readers: int, actors: int) -> dict[str, Any]:
    """The busy share of each stage, its images/s if it never waited, and the one that limits."""
    busy = {"read": (stats.read_s, readers), "predict": (stats.predict_s, actors)}
    shares = {name: seconds / (wall_s * slots) for name, (seconds, slots) in busy.items()}
    could = {name: stats.ended * slots / seconds for name, (seconds, slots) in busy.items() if seconds}
    return {
        "limited_by": max(shares, key=lambda name: shares[name]),
        "busy": {name: round(share, 3) for name, share in shares.items()},
        "stage_images_per_second": {name: round(rate, 1) for name, rate in could.items()},
    }
