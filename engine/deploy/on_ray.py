"""Ray Data: archive -> samples, and archive -> predictions. The only door to ``ray.data``.

The unit of work and of resumption is a shard of the plan. Ray streams shards through a fixed number of
actors, so memory does not grow with the archive; only Arrow travels between them.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from errno import EIO, ESTALE
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from engine.deploy.bundle import open_bundle
from engine.deploy.engines import gpus_of
from engine.deploy.hands import TASKS_IN_HAND
from engine.deploy.outlook import Outlook, Sample, sample_of, shards_of
from engine.deploy.score import Scorer, result_tables
from engine.errors import LeaseLostError
from engine.ingest.reuse import TABLES, common_grid
from engine.ingest.shard import ReadSpec, read_rows, read_shard
from engine.store import ledger

OnProgress = Callable[[int, int], None]
Read = Callable[[pa.Table, ReadSpec], pa.Table]

# A reader takes nearly a core; what is left of each core is the predictor's share, since on a CPU site the
# compiled student is many times faster than decoding.
_READER_CPUS = 0.9
_PREDICTOR_CPUS = 0.1

# Rows that wait for a predictor are work that a killed run loses, and memory: for each worker so many shards.
_WAITING_SHARDS = 8
_LEAST_WAITING_BYTES = 64 << 20

_LOOK_S = 0.5
_NOT_A_SHARD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What a predictor actor needs: each bundle and its engine, and how many actors of how many threads.

    The bundles are in the order of the rules of the ``ReadSpec``.
    """

    bundles: tuple[Path, ...]
    engines: tuple[str, ...]
    actors: int = 1
    threads: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of each actor."""
        return gpus_of(self.engines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told what a run does, and may end it: shards in hand then have ``grace_s`` to come to their end.

    ``on_shard`` hears the number of a committed shard and its rows by table; ``on_failed`` the number of
    quarantined rows as soon as they come in; ``on_left`` how many seconds scoring still takes, now and then.
    """

    on_progress: OnProgress = lambda done, total: None
    on_left: Callable[[float], None] = lambda left_s: None
    on_shard: Callable[[int, dict[str, int]], None] = lambda shard, rows: None
    on_failed: Callable[[int], None] = lambda count: None
    is_stopping: Callable[[], bool] = lambda: False
    grace_s: float = 20.0
    readers: int = 1
    """Actors that read and decode, each nearly a core."""


@dataclass(slots=True, kw_only=True)
class Work:
    """What a run did: instances that ended, those taken from earlier rows, and busy seconds by stage.

    ``came`` are instances that went through all stages, whether their shard is whole or not.
    """

    ended: int = 0
    came: int = 0
    reused: int = 0
    predicted: int = 0
    read_s: float = 0.0
    predict_s: float = 0.0


def ingest(plan: pa.Table, spec: ReadSpec, watch: Watch | None = None) -> int:
    """Turn every missing shard of the plan into a committed shard of samples and rejects.

    Returns the instances that ended in this run; fewer than were missing where the watch ended it.

    Raises:
        OSError: the output cannot be written; what was committed stays.
        LeaseLostError: another run took the folder over.
    """
    watching = watch or Watch()
    missing = ledger.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, watching.on_progress)
    if not missing:
        return 0
    for batch in _tables(_per_shard(missing, _ingest_shard, spec, watching.readers), watching):
        for row in batch.to_pylist():
            if row["errno"] == ESTALE:
                raise LeaseLostError(f"another run took {spec.folder} over: this one ends, that one goes on")
            if row["errno"]:
                raise OSError(row["errno"], os.strerror(row["errno"]), str(spec.folder))
            if row["shard"] == _NOT_A_SHARD:
                continue
            counts = {name: row[name] for name in _INGESTED}
            watching.on_failed(counts["quarantine"])
            watching.on_shard(row["shard"], counts)
            tally.add(sum(counts.values()))
    return tally.added


def score(plan: pa.Table, spec: ReadSpec, scoring: ScoreSpec, watch: Watch | None = None) -> Work:
    """Score every missing shard of the plan; returns what was done in this run.

    A shard is committed when all its rows have come back, however Ray cut and mixed the blocks.

    Raises:
        OSError: the output cannot be written; what was committed stays.
        LeaseLostError: another run took the folder over.
    """
    watching, work = watch or Watch(), Work()
    missing = ledger.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, watching.on_progress)
    if not missing:
        return work
    rows_of_shard = {row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()}
    planned, readers = shards_of(plan, missing), min(watching.readers, len(missing))
    sample = sample_of(planned, spec.source, readers)
    tasks = [*range(-len(sample), 0), *missing]
    read = partial(_read_rows, sample=sample)
    rows = _per_shard(
        tasks, read, spec, readers, _waiting_bytes(rows_of_shard, spec, readers + scoring.actors)
    ).map_batches(
        _Scorer, batch_size=None, batch_format="pyarrow", zero_copy_batch=True,
        num_cpus=_PREDICTOR_CPUS, num_gpus=scoring.gpus, compute=ActorPoolStrategy(size=scoring.actors),
        fn_constructor_kwargs={"scoring": scoring},
    )  # fmt: skip
    map_HW = common_grid(open_bundle(bundle).map_HW for bundle in scoring.bundles)
    outlook = Outlook(planned, sample, readers=readers, actors=scoring.actors)
    parts: dict[int, list[pa.Table]] = defaultdict(list)
    for batch in _tables(rows, watching):
        if not batch.num_rows:
            continue
        _count(batch, work, watching)
        left_s = outlook.left_s(batch)
        if left_s is not None:
            watching.on_left(left_s)
        for shard in pc.unique(batch["shard"]).to_pylist():
            parts[shard].append(batch.filter(pc.equal(batch["shard"], shard)))
            if sum(part.num_rows for part in parts[shard]) == rows_of_shard[shard]:
                tables = result_tables(parts.pop(shard), map_HW)
                watching.on_shard(shard, ledger.commit_shard(spec.folder, shard, tables, spec.pace.staging))
                tally.add(rows_of_shard[shard])
    work.ended = tally.added
    return work


def _waiting_bytes(rows_of_shard: dict[int, int], spec: ReadSpec, workers: int) -> int:
    pixels = max(math.prod(rule.view.size_HW) for rule in spec.reading.rules)
    shard_bytes = max(rows_of_shard.values()) * pixels
    return max(_WAITING_SHARDS * workers * shard_bytes, _LEAST_WAITING_BYTES)


def _count(batch: pa.Table, work: Work, watch: Watch) -> None:
    """Put the rows of one block into what was done."""
    by_table = {row["values"]: row["counts"] for row in batch["table"].value_counts().to_pylist()}
    work.came += batch.num_rows
    work.reused += sum(by_table.get(name, 0) for name in TABLES.values())
    work.predicted += by_table.get("samples", 0)
    work.read_s += pc.sum(batch["read_s"]).as_py() or 0.0
    work.predict_s += pc.sum(batch["predict_s"]).as_py() or 0.0
    if by_table.get("quarantine"):
        watch.on_failed(by_table["quarantine"])


class _Tally:
    """Instances done of all, for a progress line."""

    def __init__(self, plan: pa.Table, missing: list[int], on_progress: OnProgress) -> None:
        self._total = plan.num_rows
        self._before = self._total - shards_of(plan, missing).num_rows
        self._on_progress = on_progress
        self.added = 0
        self.add(0)

    def add(self, count: int) -> None:
        self.added += count
        self._on_progress(self._before + self.added, self._total)


def _shards(missing: list[int], waiting_bytes: float) -> ray.data.Dataset:
    """One row and one block a shard, so that a task is a shard."""
    context = DataContext.get_current()
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=waiting_bytes
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress line says how it goes
    return ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))


def _per_shard(
    missing: list[int], read: Read, spec: ReadSpec, readers: int, waiting_bytes: float = math.inf
) -> ray.data.Dataset:
    """A row for each missing shard, through actors that run ``read`` on its number.

    No more begin where ``waiting_bytes`` of what was read lie in Ray's store.

    Actors stay, where Ray ends the idle processes of tasks once a node has more of them than cores. Each has
    its next shard at hand: Ray takes some 0.15 s to give it one, in which a core would be idle.
    """
    return _shards(missing, waiting_bytes).map_batches(
        _Reader, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ActorPoolStrategy(
            size=min(readers, len(missing)), max_tasks_in_flight_per_actor=TASKS_IN_HAND
        ),
        fn_constructor_kwargs={"read": read, "spec": spec},
    )  # fmt: skip


def _tables(dataset: ray.data.Dataset, watch: Watch) -> Iterator[pa.Table]:
    """The blocks of a dataset as they come, in any order; none after the grace once the watch has ended it.

    A thread of its own waits for Ray, so that this one can look up: Ray has no way to wait for a while only.
    """
    # A block fetched ahead would hold back the one before it, and with it a shard that could be committed.
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    pool = ThreadPoolExecutor(1)
    ends_s: float | None = None
    try:
        while True:
            coming = pool.submit(next, blocks, None)
            while not wait([coming], timeout=_LOOK_S).done:
                if ends_s is None and watch.is_stopping():
                    ends_s = time.monotonic() + watch.grace_s
                if ends_s is not None and time.monotonic() > ends_s:
                    return
            table = coming.result()
            if table is None:
                return
            yield table
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _planned(folder: Path, name: str, values: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        folder / ledger.PLAN_NAME, filters=[(name, "in", values)]
    ).to_pylist()
    return rows


_INGESTED = ("samples", "filtered", "quarantine")


def _ingest_shard(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Read, decode, preprocess and commit one shard; gives its number and rows by table.

    What the disk refuses travels as ``errno``: an exception would reach the driver wrapped and cut by Ray.
    """
    (shard,) = batch["shard"].to_pylist()
    row = {"shard": _NOT_A_SHARD, "errno": 0, **dict.fromkeys(_INGESTED, 0)}
    if spec.pace.may_start():
        try:
            tables = read_shard(_planned(spec.folder, "shard", [shard]), spec)
            row |= {**ledger.commit_shard(spec.folder, shard, tables, spec.pace.staging), "shard": shard}
        except LeaseLostError:
            row["errno"] = ESTALE
        except OSError as error:
            row["errno"] = error.errno or EIO
    return pa.table({name: pa.array([value], pa.int64()) for name, value in row.items()})


def _read_rows(batch: pa.Table, spec: ReadSpec, sample: Sample) -> pa.Table:
    """Read, decode and preprocess one shard but for the sample, or, below 0, that part of the sample.

    Images travel as bytes, ``table`` is where a row ends, ``reader`` who read it, ``read_s`` what it cost:
    null for the first piece of a sample, which also starts the decoders. No rows at all where the run has
    been asked to stop.
    """
    if not spec.pace.may_start():
        return batch.slice(0, 0)
    (shard,) = batch["shard"].to_pylist()
    if shard >= 0:
        sampled = {index for pieces in sample for piece in pieces for index in piece}
        planned = _planned(spec.folder, "shard", [shard])
        return _timed([row for row in planned if row["instance_index"] not in sampled], spec)
    pieces = [piece for piece in sample[shard] if piece]
    indices = [index for piece in pieces for index in piece]
    planned_by = {row["instance_index"]: row for row in _planned(spec.folder, "instance_index", indices)}
    read = [_timed([planned_by[index] for index in piece], spec) for piece in pieces]
    if not read:
        return batch.slice(0, 0)
    place = read[0].column_names.index("read_s")
    read[0] = read[0].set_column(place, "read_s", pa.nulls(read[0].num_rows, pa.float64()))
    return pa.concat_tables(read, promote_options="default")


def _timed(planned: list[dict[str, Any]], spec: ReadSpec) -> pa.Table:
    began_s = time.perf_counter()
    rows = read_rows(planned, spec)
    timed = _with_share(rows, "read_s", time.perf_counter() - began_s)
    reader = ray.get_runtime_context().get_actor_id() or ""
    return timed.append_column("reader", pa.repeat(pa.scalar(reader), rows.num_rows))


def _with_share(rows: pa.Table, name: str, spent_s: float) -> pa.Table:
    """Each row with its share of the seconds that were spent on all."""
    return rows.append_column(name, pa.repeat(pa.scalar(spent_s / max(rows.num_rows, 1)), rows.num_rows))


class _Reader:
    """Actor: runs ``read`` on the number of each shard that it is given."""

    def __init__(self, read: Read, spec: ReadSpec) -> None:
        self._read, self._spec = read, spec

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._read(batch, self._spec)


class _Scorer:
    """Actor: opens each bundle once, then scores the sample rows of each block."""

    def __init__(self, scoring: ScoreSpec) -> None:
        self._scorer = Scorer(scoring.bundles, scoring.engines, threads=scoring.threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows:
            return batch
        began_s = time.perf_counter()
        scored = self._scorer.score(batch)
        return _with_share(scored, "predict_s", time.perf_counter() - began_s)
