"""`ingest` through Ray Data against a bare process pool that calls the same functions; last line JSON.

    python -m benchmarks.ingest_pipeline ARCHIVE [--workers 2] [--rounds 3] [--shard-size 128] [--size 512]

Both read, decode and commit the same shards to the same disk. Start-up is left out: the pool's processes and
Ray's workers have done a small archive before the clock starts. Rounds alternate; the ratio is the median.
Ray Data looks for ended tasks some ten times a second, so a worker waits about 0.15 s between two shards:
a shard should be worth seconds, as the 512 instances of ``ingest`` are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from engine import sources
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule
from engine.ingest.on_ray import RunCallbacks, ingest
from engine.ingest.shard import ReadSpec, read_shard
from engine.store import ledger
from engine.tasks.hand_age import PROJECTION_SOP_CLASSES
from jobs.cluster_session import start_ray


def commit(rows: list[dict[str, object]], spec: ReadSpec) -> int:
    """What a worker of the pool does with one shard; the number of its instances."""
    return sum(ledger.commit_shard(spec.folder, int(str(rows[0]["shard"])), read_shard(rows, spec)).values())


def by_pool(pool: ProcessPoolExecutor, plan: pa.Table, spec: ReadSpec) -> float:
    """Seconds of the bare pool."""
    rows = plan.to_pylist()
    shards = [[row for row in rows if row["shard"] == shard] for shard in range(rows[-1]["shard"] + 1)]
    started = time.perf_counter()
    done = sum(pool.map(commit, shards, [spec] * len(shards)))
    assert done == plan.num_rows
    return time.perf_counter() - started


def by_ray(plan: pa.Table, spec: ReadSpec, readers: int) -> float:
    """Seconds of Ray Data."""
    started = time.perf_counter()
    ingest(plan, spec, RunCallbacks(readers=readers))
    assert not ledger.missing_shards(spec.folder, plan)
    return time.perf_counter() - started


def one_a_shard(plan: pa.Table) -> pa.Table:
    """The same instances, each a shard, so that every worker gets one."""
    place = plan.column_names.index("shard")
    return plan.set_column(place, plan.field("shard"), pa.array(range(plan.num_rows), pa.int32()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    rule = InputRule(sop_classes=PROJECTION_SOP_CLASSES, view=View(size_HW=(options.size, options.size)))
    plan = sources.plan(str(options.archive), options.shard_size)
    spec = ReadSpec(source=str(options.archive), folder=Path(), rules=(rule,), salt=b"benchmark")
    start_ray()
    seconds: dict[str, list[float]] = {"pool": [], "ray": []}
    with (
        tempfile.TemporaryDirectory(dir=options.archive.parent) as scratch,
        ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool,
    ):
        for turn in range(options.rounds + 1):
            used = plan if turn else one_a_shard(plan.slice(0, 2 * options.workers))
            for name, spent in seconds.items():
                folder = Path(scratch) / f"{name}-{turn}"
                placed = replace(spec, folder=folder)
                folder.mkdir()
                ledger.write_plan(folder, used)
                passed = (
                    by_pool(pool, used, placed) if name == "pool" else by_ray(used, placed, options.workers)
                )
                shutil.rmtree(folder)
                if turn:
                    spent.append(passed)
    ratio = statistics.median(p / r for p, r in zip(seconds["pool"], seconds["ray"], strict=True))
    speeds = {name: round(plan.num_rows / statistics.median(spent), 1) for name, spent in seconds.items()}
    print(
        json.dumps(
            {"instances": plan.num_rows, "images_per_second": speeds, "ray_over_pool": round(ratio, 3)}
        )
    )


if __name__ == "__main__":
    main()
