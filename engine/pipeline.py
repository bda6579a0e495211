"""Ray Data: archive -> samples, and archive -> predictions. The only door to ``ray.data``.

The unit of work and of resumption is a shard of the plan. Ray streams shards through a fixed number of
tasks and actors, so memory does not grow with the archive; only Arrow travels between them.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from engine import books, schema
from engine.bundle import Bundle, open_bundle
from engine.manifest import code_version
from engine.predict import open_predictor, sex_covariate
from engine.shard import ReadSpec, read_shard

OnProgress = Callable[[int, int], None]

# A reader takes nearly a core; what is left of each core is the predictor's share, since on a CPU site the
# compiled student is many times faster than decoding.
_READER_CPUS = 0.9
_PREDICTOR_CPUS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What a predictor actor needs: the bundle, the engine, and how many actors of how many threads."""

    bundle: Path
    engine: str
    actors: int = 1
    threads: int = 1
    gpus: float = 0.0


def ingest(plan: pa.Table, spec: ReadSpec, on_progress: OnProgress | None = None) -> None:
    """Turn every missing shard of the plan into a committed shard of samples and rejects.

    Raises:
        OSError: the output cannot be written; what was committed stays.
    """
    missing = books.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, on_progress)
    if not missing:
        return
    done = _per_shard(missing, _ingest_shard, spec)
    for batch in _tables(done):
        for rows, errno in zip(batch["rows"].to_pylist(), batch["errno"].to_pylist(), strict=True):
            if errno:
                raise OSError(errno, os.strerror(errno), str(spec.folder))
            tally.add(rows)


def score(plan: pa.Table, spec: ReadSpec, scoring: ScoreSpec, on_progress: OnProgress | None = None) -> int:
    """Score every missing shard of the plan; returns the instances that ended in this run.

    A shard is committed when all its rows have come back, however Ray cut and mixed the blocks.
    """
    missing = books.missing_shards(spec.folder, plan)
    tally = _Tally(plan, missing, on_progress)
    if not missing:
        return 0
    rows_of_shard = {row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()}
    rows = _per_shard(missing, _read_rows, spec).map_batches(
        _Scorer, batch_size=None, batch_format="pyarrow", zero_copy_batch=True,
        num_cpus=_PREDICTOR_CPUS, num_gpus=scoring.gpus, compute=ActorPoolStrategy(size=scoring.actors),
        fn_constructor_kwargs={"scoring": scoring, "size_HW": spec.rule.view.size_HW},
    )  # fmt: skip
    bundle = open_bundle(scoring.bundle)
    parts: dict[int, list[pa.Table]] = defaultdict(list)
    for batch in _tables(rows):
        for shard in pc.unique(batch["shard"]).to_pylist():
            parts[shard].append(batch.filter(pc.equal(batch["shard"], shard)))
            if sum(part.num_rows for part in parts[shard]) == rows_of_shard[shard]:
                books.commit_shard(spec.folder, shard, _result_tables(parts.pop(shard), bundle))
                tally.add(rows_of_shard[shard])
    return tally.added


class _Tally:
    """Instances done of all, for a progress line."""

    def __init__(self, plan: pa.Table, missing: list[int], on_progress: OnProgress | None) -> None:
        self._total = plan.num_rows
        self._before = self._total - int(
            pc.sum(pc.is_in(plan["shard"], pa.array(missing, pa.int32()))).as_py()
        )
        self._on_progress = on_progress
        self.added = 0
        self.add(0)

    def add(self, count: int) -> None:
        self.added += count
        if self._on_progress:
            self._on_progress(self._before + self.added, self._total)


def _shards(missing: list[int]) -> ray.data.Dataset:
    """One row and one block a shard, so that a task is a shard."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress line says how it goes
    return ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))


def _per_shard(
    missing: list[int], read: Callable[[pa.Table, ReadSpec], pa.Table], spec: ReadSpec
) -> ray.data.Dataset:
    """A task for each missing shard that runs ``read`` on its number."""
    function: Any = read  # Ray's own annotation knows only functions of one argument
    return _shards(missing).map_batches(
        function, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS, fn_kwargs={"spec": spec}
    )


def _tables(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    """The blocks of a dataset as they come, in any order."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _planned(folder: Path, shard: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        folder / books.PLAN_NAME, filters=[("shard", "==", shard)]
    ).to_pylist()
    return rows


def _ingest_shard(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Task: read, decode, preprocess and commit one shard; gives its row count.

    What the disk refuses travels as ``errno``: an exception would reach the driver wrapped and cut by Ray.
    """
    rows, errno = 0, 0
    for shard in batch["shard"].to_pylist():
        try:
            counts = books.commit_shard(spec.folder, shard, read_shard(_planned(spec.folder, shard), spec))
        except OSError as error:
            errno = error.errno or EIO
            break
        rows += sum(counts.values())
    return pa.table({"rows": pa.array([rows], pa.int64()), "errno": pa.array([errno], pa.int32())})


def _read_rows(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Task: read, decode and preprocess one shard; images travel as bytes, ``table`` is where a row ends."""
    parts = []
    for shard in batch["shard"].to_pylist():
        for name, table in read_shard(_planned(spec.folder, shard), spec).items():
            parts.append(
                _as_transport(table).append_column("table", pa.array([name] * table.num_rows, pa.string()))
            )
    return pa.concat_tables(parts, promote_options="default")


def _as_transport(table: pa.Table) -> pa.Table:
    """All columns nullable, the image as bytes: tables of one shard can then travel as one block."""
    if "image" in table.column_names:
        stack = schema.tensor_values(table["image"])
        images = pa.array([image.tobytes() for image in stack], pa.binary())
        table = table.set_column(table.column_names.index("image"), "image", images)
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
        is_sample = pc.equal(batch["table"], "samples")
        samples, rejects = batch.filter(is_sample), batch.filter(pc.invert(is_sample))
        images = [
            np.frombuffer(data.as_buffer(), np.uint8).reshape(self._size_HW) for data in samples["image"]
        ]
        sex_B = np.array([sex_covariate(sex) for sex in samples["patient_sex"].to_pylist()], np.float32)
        scores = self._predictor.predict(
            np.stack(images) if images else np.zeros((0, *self._size_HW), np.uint8), sex_B
        )
        maps = pa.array([attention.tobytes() for attention in scores.attention_Bhw], pa.binary())
        scored = samples.drop_columns(["image"])
        for name, column in (
            ("predicted_months", pa.array(scores.months_B, pa.float32())),
            ("sd_months", pa.array(scores.sd_B, pa.float32())),
            ("attention_map", maps),
        ):
            scored = scored.append_column(name, column)
        return pa.concat_tables([scored, rejects.drop_columns(["image"])], promote_options="default")


def _result_tables(parts: list[pa.Table], bundle: Bundle) -> dict[str, pa.Table]:
    """The tables of one scored shard in their declared schemas, rows in the order of the plan."""
    rows = pa.concat_tables(parts, promote_options="default").sort_by("instance_index")
    full = schema.stamped(schema.predictions(bundle.map_HW), "predictions")
    scored = rows.filter(pc.equal(rows["table"], "samples"))
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
