"""`score` against its parts, its memory against the archive's size, planning, and a rerun; last line JSON.

    python -m benchmarks.score throughput ARCHIVE --model BUNDLE [--rounds 3] [--count 4000]
    python -m benchmarks.score memory ARCHIVE --model BUNDLE [--counts 1000 10000 100000]
    python -m benchmarks.score planning ARCHIVE [--count 1000000]
    python -m benchmarks.score rerun ARCHIVE --model BUNDLE
    python -m benchmarks.score eta ARCHIVE --model BUNDLE [--count 10000]

``throughput``: images per second of a process pool that only reads and decodes, of one that only predicts,
and of the pipeline that does all and commits, in turns on the same cores. The pools and Ray are started
before; the pipeline's actors start anew in each turn, which counts the less the more links to the files
``--count`` asks for. Beside them the bare verb, with its start. Where both parts need the same cores, no
pipeline can be faster than ``parts`` = 1 / (1 / decode + 1 / predict).
``memory``: largest proportional set size of the verb and all its processes over so many links to the files.
``planning``: seconds and memory of listing so many links and writing the plan.
``rerun``: the same command again over a finished folder, and into another folder with ``--reuse``.
``eta``: what the progress lines promise against what came, over so many links, from 5 % done on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.process_tree import peak_mib
from benchmarks.verb import finish, start, told
from engine import sources
from engine.deploy.bundle import Bundle, open_bundle
from engine.deploy.engines import open_predictor
from engine.deploy.on_ray import ScoreSpec
from engine.deploy.on_ray import score as score_shards
from engine.ingest import covariates
from engine.ingest.on_ray import RunCallbacks
from engine.ingest.shard import ReadSpec, read_shard
from engine.store import ledger, schema
from jobs.cluster_session import start_ray

CORES = os.cpu_count() or 1
WARMING = 512
FILES_PER_FOLDER = 500
PROMISE = re.compile(r"\((\d+)%\).*?(?:(\d+) h )?(?:(\d+) min)?(?: ?(\d+) s)? left")
FROM_PERCENT = 5
BATCHES = 8
"""Batches that each process of the predicting pool scores in a turn."""


def decode(rows: list[dict[str, object]], spec: ReadSpec) -> int:
    """What a worker of the decoding pool does with one shard; the number of its instances."""
    return sum(table.num_rows for table in read_shard(rows, spec).values())


def predict(folder: Path, images_BVHW: np.ndarray, covariates_BQ: np.ndarray, times: int) -> float:
    """Images per second of one predictor of one thread, from its first call on."""
    predictor = open_predictor(folder, open_bundle(folder).engine, threads=1)
    predictor.predict(images_BVHW[:2], covariates_BQ[:2])
    started = time.perf_counter()
    for _ in range(times):
        predictor.predict(images_BVHW, covariates_BQ)
    return times * len(images_BVHW) / (time.perf_counter() - started)


def shards_of(plan: pa.Table) -> list[list[dict[str, object]]]:
    """The rows of each shard."""
    rows = defaultdict(list)
    for row in plan.to_pylist():
        rows[row["shard"]].append(row)
    return list(rows.values())


def shown(plan: pa.Table, spec: ReadSpec, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Images and covariates of the first shard."""
    samples = read_shard(shards_of(plan)[0], spec)["samples"]
    names = bundle.covariates
    covariates_BQ = covariates.columns(samples.select(covariates.sources(names)).to_pylist(), names)
    return schema.tensor_values(samples["image"])[:, None], covariates_BQ


def throughput(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Images per second of the parts, the pipeline and the verb."""
    archive = options.archive
    if options.count:
        archive = linked(archive, scratch / "archive", options.count)
    bundle, source = open_bundle(options.model), str(archive)
    plan = sources.plan(source)
    spec = ReadSpec(source=source, folder=scratch, rules=(bundle.rule,), salt=b"benchmark")
    images_BVHW, covariates_BQ = shown(plan, spec, bundle)
    scoring = ScoreSpec(
        bundles=(options.model.resolve(),), sha256s=(bundle.sha256,), engines=(bundle.engine,)
    )
    start_ray()
    speeds: dict[str, list[float]] = defaultdict(list)
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        for turn in range(options.rounds + 1):
            used = plan if turn else plan.slice(0, WARMING)
            started = time.perf_counter()
            shards = shards_of(used)
            assert sum(pool.map(decode, shards, [spec] * len(shards))) == used.num_rows
            decoded = used.num_rows / (time.perf_counter() - started)
            tasks = [
                pool.submit(predict, options.model, images_BVHW, covariates_BQ, BATCHES if turn else 1)
                for _ in range(CORES)
            ]
            predicted = sum(task.result() for task in tasks)
            placed = replace(spec, folder=scratch / f"pipeline-{turn}")
            placed.folder.mkdir()
            ledger.write_plan(placed.folder, used)
            started = time.perf_counter()
            assert score_shards(used, placed, scoring, RunCallbacks(readers=CORES)).ended == used.num_rows
            scored = used.num_rows / (time.perf_counter() - started)
            if turn:
                for name, value in (("decode", decoded), ("predict", predicted), ("pipeline", scored)):
                    speeds[name].append(value)
                wall_s = finish(words(options, archive), scratch / f"verb-{turn}")
                speeds["verb"].append(used.num_rows / wall_s)
            print(f"turn {turn}/{options.rounds}", file=sys.stderr, flush=True)
    medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    parts = 1 / (1 / medians["decode"] + 1 / medians["predict"])
    slower = min(medians["decode"], medians["predict"])
    return {
        "cores": CORES,
        "instances": plan.num_rows,
        "images_per_second": {**medians, "parts": round(parts, 1)},
        "pipeline_over_slower_part": round(medians["pipeline"] / slower, 3),
        "pipeline_over_parts": round(medians["pipeline"] / parts, 3),
        "verb_over_slower_part": round(medians["verb"] / slower, 3),
    }


def words(options: argparse.Namespace, archive: Path, *more: str) -> list[str]:
    """The verb and its arguments."""
    return ["score", str(archive), "--model", str(options.model), *more]


def linked(archive: Path, folder: Path, count: int) -> Path:
    """A folder of ``count`` hard links to the files of ``archive``, taken in turn."""
    files = sorted(path for path in archive.rglob("*") if path.is_file() and path.suffix != ".csv")
    for place, path in enumerate(islice(cycle(files), count)):
        if place % FILES_PER_FOLDER == 0:
            inside = folder / f"{place // FILES_PER_FOLDER:06d}"
            inside.mkdir(parents=True)
        os.link(path, inside / f"{place:08d}")
    return folder


def memory(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Peak memory of the verb by the number of instances."""
    result = {}
    for count in options.counts:
        archive = linked(options.archive, scratch / f"archive-{count}", count)
        process = start(words(options, archive), scratch / f"out-{count}")
        tree, driver = peak_mib(process)
        report = told(scratch / f"out-{count}")
        assert sum(report[name] for name in ("scored", "filtered", "abstained", "quarantined")) == count
        result[count] = {
            "tree_mib": tree,
            "driver_mib": driver,
            "images_per_second": report["images_per_second"],
        }
        print(f"{count}: {result[count]}", file=sys.stderr, flush=True)
        shutil.rmtree(archive)
    return {"cores": CORES, "peak": result}


def _planned(archive: Path, out: Path) -> tuple[int, float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    out.mkdir()
    plan = ledger.write_plan(out, sources.plan(str(archive)))
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return plan.num_rows, seconds, max(grown, before) / 1024


def planning(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Seconds and memory of the plan of many links, in a process of its own."""
    archive = linked(options.archive, scratch / "archive", options.count)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows, seconds, mib = pool.submit(_planned, archive, scratch / "out").result()
    assert rows == options.count
    return {"instances": rows, "seconds": round(seconds, 1), "process_peak_mib": round(mib, 1)}


def rerun(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Seconds of the first run, of the same command again, and of another folder that takes its rows."""
    out, other = scratch / "out", scratch / "other"
    command = words(options, options.archive)
    first_s = finish(command, out)
    scored = told(out)["scored_this_run"]
    again_s = finish(command, out)
    assert told(out)["scored_this_run"] == 0
    reused_s = finish([*command, "--reuse", str(out)], other)
    return {
        "instances": scored,
        "first_s": round(first_s, 1),
        "again_s": round(again_s, 1),
        "reused_s": round(reused_s, 1),
        "reused": told(other)["reused"],
        "again_over_first": round(again_s / first_s, 3),
        "reused_over_first": round(reused_s / first_s, 3),
    }


def eta(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """How far the promised time left is from the real one, by progress line."""
    archive, out = linked(options.archive, scratch / "archive", options.count), scratch / "out"
    process, log = start(words(options, archive), out), out.with_suffix(".log")
    lines: list[tuple[float, str]] = []
    with log.open() as stream:
        while process.poll() is None:
            time.sleep(0.1)
            lines += [(time.monotonic(), line) for line in stream]
    began_s = next(at_s for at_s, line in lines if line.startswith("score: 0/"))
    ended_s = next(at_s for at_s, line in lines if line.startswith("score: done"))
    apart = []
    for at_s, line in lines:
        promise = PROMISE.search(line)
        if promise and int(promise[1]) >= FROM_PERCENT:
            hours, minutes, seconds = (int(number or 0) for number in promise.groups()[1:])
            left_s = hours * 3600 + minutes * 60 + seconds
            apart.append((left_s - (ended_s - at_s), ended_s - at_s))
    whole_s = ended_s - began_s
    return {
        "instances": options.count,
        "seconds": round(whole_s, 1),
        "lines": len(apart),
        "worst_of_whole": round(max(abs(off_s) for off_s, _ in apart) / whole_s, 3),
        "within_20_percent_of_rest": _near(apart),
        "without_the_last_tenth": _near([one for one in apart if one[1] > 0.1 * whole_s]),
        "off_and_left_s": [[round(number, 1) for number in one] for one in apart],
    }


def _near(apart: list[tuple[float, float]]) -> float:
    return round(statistics.mean(abs(off_s) <= 0.2 * left_s for off_s, left_s in apart), 3)


MEASURES = {
    "throughput": throughput, "memory": memory, "planning": planning, "rerun": rerun, "eta": eta,
}  # fmt: skip


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--model", type=Path, help="bundle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--count", type=int, help="links; else a million for planning, 10,000 for eta")
    options = parser.parse_args()
    if options.model is None and options.what != "planning":
        parser.error("--model is needed")
    options.count = options.count or {"planning": 1_000_000, "eta": 10_000}.get(options.what, 0)
    # Beside the archive: hard links do not cross file systems.
    with tempfile.TemporaryDirectory(dir=options.archive.resolve().parent) as scratch:
        print(json.dumps({options.what: MEASURES[options.what](options, Path(scratch))}))


if __name__ == "__main__":
    main()
