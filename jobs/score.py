"""``osteoray score``: a whole archive through a bundle, resumable, each instance exactly once."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer

from engine import books, sources
from engine.bundle import Bundle, open_bundle
from engine.errors import UsageError
from engine.manifest import MANIFEST_NAME, code_version, read_json, sha256_of_facts
from engine.predict import choose_engine
from engine.shard import ReadSpec
from jobs.cluster_session import start_ray
from jobs.console import finish, progress
from jobs.ingest import QUARANTINED, require_apart
from jobs.plan import begun_plan
from jobs.salt import read_salt

# One compiled student keeps up with this many cores that decode.
CORES_PER_PREDICTOR = 8


def score(
    source: Annotated[str, typer.Argument(help=sources.FORMS)],
    model: Annotated[Path, typer.Option(help="Bundle that `osteoray export` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for results; the same command again resumes it.")],
    engine: Annotated[str | None, typer.Option(help="Engine instead of the bundle's own.")] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Instances in one shard, the unit of resuming.")
    ] = 256,
    resume: Annotated[
        bool,
        typer.Option(help="Go on where an earlier run of the same command stopped; --no-resume refuses to."),
    ] = True,
    incremental: Annotated[
        bool,
        typer.Option(
            "--incremental", help="Take into a finished --out what is new or changed in SOURCE since then."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")] = False,
) -> None:
    """Score an archive. Every file ends as scored, filtered or quarantined, with a reason code.

    Kill it at any time and give the same command again: finished shards are kept, no row is lost or doubled.
    Exit code 3 says that some files were quarantined; 75 that another run holds the folder.
    """
    require_apart(source, out)
    bundle = open_bundle(model)
    spec = ReadSpec(source=source, folder=out, rule=bundle.rule, salt=read_salt())
    chosen = choose_engine(engine or bundle.engine)
    manifest = score_manifest(source, bundle, chosen, shard_size)
    with books.lease(out):
        request = Request(shard_size=shard_size, resume=resume, incremental=incremental)
        counts, speed = run_score(spec, manifest, bundle, request)
    code = QUARANTINED if counts["quarantined"] else 0
    finish("score", {"out": str(out), **counts, **speed}, as_json=json, exit_code=code)


def score_manifest(source: str, bundle: Bundle, engine: str, shard_size: int) -> dict[str, Any]:
    """What a score folder says of how it is made; a resumed job must say the same."""
    config = {"model_sha256": bundle.sha256, "engine": engine, "shard_size": shard_size}
    return {
        "kind": "score",
        "task": bundle.task,
        "source": sources.identity(source),
        "config_sha256": sha256_of_facts(config),
        "config": config,
        "model": {**bundle.facts, "model_sha256": bundle.sha256},
        "code_version": code_version(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How a folder is begun, gone on with, or grown."""

    shard_size: int
    resume: bool = True
    incremental: bool = False


def run_score(
    spec: ReadSpec, manifest: dict[str, Any], bundle: Bundle, request: Request
) -> tuple[dict[str, int], dict[str, Any]]:
    """Plan, begin or resume, score and close a folder whose lease is held; gives counts and speed."""
    if not request.resume and (spec.folder / MANIFEST_NAME).exists():
        raise UsageError(f"{spec.folder} holds an earlier run: choose another --out, or allow --resume")

    def grow(plan: pa.Table) -> None:
        _score(spec, manifest, bundle, plan)

    plan = begun_plan(spec, manifest, request.shard_size, grow=grow if request.incremental else None)
    return _score(spec, manifest, bundle, plan)


def _score(
    spec: ReadSpec, manifest: dict[str, Any], bundle: Bundle, plan: pa.Table
) -> tuple[dict[str, int], dict[str, Any]]:
    """Score what is missing of a plan, and close the folder."""
    from engine.pipeline import ScoreSpec
    from engine.pipeline import score as score_shards

    started, ended = time.perf_counter(), 0
    if books.missing_shards(spec.folder, plan):
        start_ray()
        cpus = os.cpu_count() or 1
        scoring = ScoreSpec(
            bundle=bundle.folder.resolve(),
            engine=manifest["config"]["engine"],
            actors=max(cpus // CORES_PER_PREDICTOR, 1),
        )
        started = time.perf_counter()
        with progress("score") as report:
            ended = score_shards(plan, spec, scoring, report)
    wall_s = time.perf_counter() - started
    speed = {
        "wall_s": round(wall_s, 2),
        "images_per_second": round(ended / wall_s, 1) if ended else 0.0,
        "scored_this_run": ended,
        "reused": plan.num_rows - ended,
    }
    counts = books.close(spec.folder, plan, {"speed": speed})
    if not ended:  # nothing was left to do: show the speed of the run that did it
        earlier = read_json(spec.folder / MANIFEST_NAME)["speed"]
        speed["images_per_second"] = earlier["images_per_second"]
    return counts, speed
