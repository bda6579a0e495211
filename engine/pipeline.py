"""Ray Data: archive -> samples, and archive -> predictions. The only door to ``ray.data``.

The unit of work and of resumption is a shard of the plan. Ray streams shards through a fixed number of
tasks and actors, so memory does not grow with the archive; only Arrow travels between them.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from errno import EIO, ESTALE
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from engine import books, covariates, qa, schema
from engine.bundle import Bundle, open_bundle
from engine.errors import AbstainedError, LeaseLostError
from engine.manifest import code_version
from engine.predict import Scores, open_predictor
from engine.shard import ReadSpec, read_shard

OnProgress = Callable[[int, int], None]

# A reader takes nearly a core; what is left of each core is the predictor's share, since on a CPU site the
# compiled student is many times faster than decoding.
_READER_CPUS = 0.9
_PREDICTOR_CPUS = 0.1

_LOOK_S = 0.5
_NOT_A_SHARD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What a predictor actor needs: the bundle, the engine, and how many actors of how many threads."""

    bundle: Path
    engine: str
    actors: int = 1
    threads: int = 1
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who is told what a run does, and may end it: tasks in hand then have ``grace_s`` to come to their end.

    ``on_shard`` hears the number of a committed shard and its rows by table; ``on_failed`` the number of
    quarantined rows as soon as they come in.
    """

    on_progress: OnProgress = lambda done, total: None
    on_shard: Callable[[int, dict[str, int]], None] = lambda shard, rows: None
    on_failed: Callable[[int], None] = lambda count: None
    is_stopping: Callable[[], bool] = lambda: False
    grace_s: float = 20.0
    readers: int | None = None
    """At most so many tasks at once; None is as many as there are cores."""


@dataclass(slots=True, kw_only=True)
class Work:
    """What a run did: instances that ended, those taken from earlier rows, and busy seconds by stage."""

    ended: int = 0
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
    missing = books.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, watching.on_progress)
    if not missing:
        return 0
    for batch in _tables(_per_shard(missing, _ingest_shard, spec, watching), watching):
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
    missing = books.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, watching.on_progress)
    if not missing:
        return work
    rows_of_shard = {row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()}
    rows = _per_shard(missing, _read_rows, spec, watching).map_batches(
        _Scorer, batch_size=None, batch_format="pyarrow", zero_copy_batch=True,
        num_cpus=_PREDICTOR_CPUS, num_gpus=scoring.gpus, compute=ActorPoolStrategy(size=scoring.actors),
        fn_constructor_kwargs={"scoring": scoring, "size_HW": spec.rule.view.size_HW},
    )  # fmt: skip
    bundle = open_bundle(scoring.bundle)
    parts: dict[int, list[pa.Table]] = defaultdict(list)
    for batch in _tables(rows, watching):
        if not batch.num_rows:
            continue
        _count(batch, work, watching)
        for shard in pc.unique(batch["shard"]).to_pylist():
            parts[shard].append(batch.filter(pc.equal(batch["shard"], shard)))
            if sum(part.num_rows for part in parts[shard]) == rows_of_shard[shard]:
                tables = _result_tables(parts.pop(shard), bundle)
                watching.on_shard(shard, books.commit_shard(spec.folder, shard, tables, spec.pace.staging))
                tally.add(rows_of_shard[shard])
    work.ended = tally.added
    return work


def _count(batch: pa.Table, work: Work, watch: Watch) -> None:
    """Put the rows of one block into what was done."""
    by_table = {row["values"]: row["counts"] for row in batch["table"].value_counts().to_pylist()}
    work.reused += by_table.get("reused", 0)
    work.predicted += by_table.get("samples", 0)
    work.read_s += pc.sum(batch["read_s"]).as_py() or 0.0
    work.predict_s += pc.sum(batch["predict_s"]).as_py() or 0.0
    if by_table.get("quarantine"):
        watch.on_failed(by_table["quarantine"])


class _Tally:
    """Instances done of all, for a progress line."""

    def __init__(self, plan: pa.Table, missing: list[int], on_progress: OnProgress) -> None:
        self._total = plan.num_rows
        self._before = self._total - int(
            pc.sum(pc.is_in(plan["shard"], pa.array(missing, pa.int32()))).as_py()
        )
        self._on_progress = on_progress
        self.added = 0
        self.add(0)

    def add(self, count: int) -> None:
        self.added += count
        self._on_progress(self._before + self.added, self._total)


def _shards(missing: list[int]) -> ray.data.Dataset:
    """One row and one block a shard, so that a task is a shard."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress line says how it goes
    return ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))


def _per_shard(
    missing: list[int], read: Callable[[pa.Table, ReadSpec], pa.Table], spec: ReadSpec, watch: Watch
) -> ray.data.Dataset:
    """A task for each missing shard that runs ``read`` on its number."""
    function: Any = read  # Ray's own annotation knows only functions of one argument
    return _shards(missing).map_batches(
        function, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS, fn_kwargs={"spec": spec},
        compute=TaskPoolStrategy(size=watch.readers),
    )  # fmt: skip


def _tables(dataset: ray.data.Dataset, watch: Watch) -> Iterator[pa.Table]:
    """The blocks of a dataset as they come, in any order; none after the grace once the watch has ended it.

    A thread of its own waits for Ray, so that this one can look up: Ray has no way to wait for a while only.
    """
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
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


def _planned(folder: Path, shard: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        folder / books.PLAN_NAME, filters=[("shard", "==", shard)]
    ).to_pylist()
    return rows


_INGESTED = ("samples", "filtered", "quarantine")


def _ingest_shard(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Task: read, decode, preprocess and commit one shard; gives its number and rows by table.

    What the disk refuses travels as ``errno``: an exception would reach the driver wrapped and cut by Ray.
    """
    (shard,) = batch["shard"].to_pylist()
    row = {"shard": _NOT_A_SHARD, "errno": 0, **dict.fromkeys(_INGESTED, 0)}
    if spec.pace.may_start():
        try:
            tables = read_shard(_planned(spec.folder, shard), spec)
            row |= {**books.commit_shard(spec.folder, shard, tables, spec.pace.staging), "shard": shard}
        except LeaseLostError:
            row["errno"] = ESTALE
        except OSError as error:
            row["errno"] = error.errno or EIO
    return pa.table({name: pa.array([value], pa.int64()) for name, value in row.items()})


def _read_rows(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Task: read, decode and preprocess one shard; images travel as bytes, ``table`` is where a row ends.

    No rows at all where the run has been asked to stop.
    """
    if not spec.pace.may_start():
        return batch.slice(0, 0)
    (shard,) = batch["shard"].to_pylist()
    planned = _planned(spec.folder, shard)
    began_s = time.perf_counter()
    tables = read_shard(planned, spec)
    share_s = (time.perf_counter() - began_s) / max(len(planned), 1)
    return pa.concat_tables(
        [
            _with_constants(_as_transport(table), {"table": name, "read_s": share_s})
            for name, table in tables.items()
        ],
        promote_options="default",
    )


def _with_constants(table: pa.Table, constants: Mapping[str, Any]) -> pa.Table:
    for name, value in constants.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value), table.num_rows))
    return table


def _as_transport(table: pa.Table) -> pa.Table:
    """All columns nullable, images as bytes: tables of one shard can then travel as one block."""
    for name in {"image", "attention_map"} & set(table.column_names):
        images = pa.array([image.tobytes() for image in schema.tensor_values(table[name])], pa.binary())
        table = table.set_column(table.column_names.index(name), name, images)
    return table.cast(
        pa.schema([field.with_nullable(nullable=True) for field in table.schema.remove_metadata()])
    )


class _Scorer:
    """Actor: opens the bundle once, then scores the sample rows of each block."""

    def __init__(self, scoring: ScoreSpec, size_HW: tuple[int, int]) -> None:
        self._bundle = open_bundle(scoring.bundle)
        self._predictor = open_predictor(scoring.bundle, scoring.engine, threads=scoring.threads)
        self._size_HW = size_HW

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows:
            return batch
        began_s = time.perf_counter()
        scored = self._scored(batch)
        return _with_constants(scored, {"predict_s": (time.perf_counter() - began_s) / batch.num_rows})

    def _scored(self, batch: pa.Table) -> pa.Table:
        is_sample = pc.equal(batch["table"], "samples")
        samples, rejects = batch.filter(is_sample), batch.filter(pc.invert(is_sample))
        images = [
            np.frombuffer(data.as_buffer(), np.uint8).reshape(self._size_HW) for data in samples["image"]
        ]
        names = self._bundle.covariates
        told_BQ = covariates.columns(samples.select(covariates.sources(names)).to_pylist(), names)
        scores = self._predictor.predict(
            np.stack(images) if images else np.zeros((0, *self._size_HW), np.uint8), told_BQ
        )
        maps = pa.array([attention.tobytes() for attention in scores.attention_Bhw], pa.binary())
        scored = samples.drop_columns(["image"])
        for name, column in (
            ("predicted_months", pa.array(scores.months_B, pa.float32())),
            ("sd_months", pa.array(scores.sd_B, pa.float32())),
            *_interval_columns(self._bundle, scores),
            ("attention_map", maps),
        ):
            if name in scored.column_names:  # of reused rows in the same block
                scored = scored.drop_columns([name])
            scored = scored.append_column(name, column)
        found = qa.verdicts(
            scored.select(qa.COLUMNS).to_pylist(),
            np.stack(images) if images else np.zeros((0, *self._size_HW), np.uint8),
            scores.sd_B, task=self._bundle.task, widest_sd=self._bundle.calibration.widest_sd,
        )  # fmt: skip
        return pa.concat_tables(
            [_withheld(scored, found), rejects.drop_columns(["image"])], promote_options="default"
        )


def _withheld(scored: pa.Table, verdicts: Sequence[AbstainedError | None]) -> pa.Table:
    """The rows with a verdict as rows of the table ``abstained``, their reason beside them."""
    told = {
        "table": ["abstained" if verdict else "samples" for verdict in verdicts],
        "reason": [verdict and verdict.reason for verdict in verdicts],
        "code": [verdict and verdict.code for verdict in verdicts],
        "message": [verdict and str(verdict) for verdict in verdicts],
    }
    for name, values in told.items():
        place = scored.column_names.index(name)
        scored = scored.set_column(place, name, pa.array(values, pa.string()))
    return scored


def _interval_columns(bundle: Bundle, scores: Scores) -> list[tuple[str, pa.Array]]:
    names = ("interval_low_months", "interval_high_months")
    interval = bundle.calibration.interval(scores.months_B, scores.sd_B)
    ends = interval or [pa.nulls(len(scores.months_B), pa.float32())] * len(names)
    return [(name, pa.array(end, pa.float32())) for name, end in zip(names, ends, strict=True)]


def _result_tables(parts: list[pa.Table], bundle: Bundle) -> dict[str, pa.Table]:
    """The tables of one scored shard in their declared schemas, rows in the order of the plan."""
    rows = pa.concat_tables(parts, promote_options="default").sort_by("instance_index")
    full = schema.stamped(schema.predictions(bundle.map_HW), "predictions")
    scored = rows.filter(pc.is_in(rows["table"], pa.array(["samples", "reused"])))
    maps = [np.frombuffer(data.as_buffer(), np.uint8) for data in scored["attention_map"]]
    stack = (
        np.concatenate(maps).reshape(-1, *bundle.map_HW) if maps else np.zeros((0, *bundle.map_HW), np.uint8)
    )
    constants = {"task": bundle.task, "model_sha256": bundle.sha256, "code_version": code_version()}
    columns = [
        schema.tensor_column(stack) if field.name == "attention_map"
        else pa.array([constants[field.name]] * scored.num_rows, pa.string()) if field.name in constants
        else scored[field.name]
        for field in full
    ]  # fmt: skip
    tables = {"predictions": pa.Table.from_arrays(columns, names=full.names).cast(full)}
    for name in books.REJECT_TABLES:
        rejects = rows.filter(pc.equal(rows["table"], name)).select(schema.REJECTS.names)
        tables[name] = rejects.cast(schema.stamped(schema.REJECTS, name))
    return tables
