"""Ray Data: archive -> samples, and what scoring shares with it: callbacks, shards through actors, blocks.

The unit of work and of resuming is a shard of the plan. Ray streams shards through a fixed number of actors,
so memory does not grow with the archive; only Arrow travels between them.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from errno import EIO, ESTALE
from pathlib import Path
from random import Random
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from engine.errors import EngineError, LeaseLostError, error_of, error_words
from engine.ingest.shard import ReadSpec, read_shard
from engine.store import ledger

OnProgress = Callable[[int, int], None]
Read = Callable[[pa.Table, ReadSpec], pa.Table]

# A reader takes nearly a core; what is left of each core is for a predictor, since on a CPU the compiled
# student is many times faster than decoding.
_READER_CPUS = 0.9
_SHARDS_AT_HAND = 2
_LOOK_S = 0.5
_ORDER_SEED = 0
_NOT_A_SHARD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCallbacks:
    """What a run reports to, and what may stop it; on a stop, running shards get ``grace_s`` to finish.

    ``on_shard`` gets the number of a committed shard and its rows by table; ``on_failed`` the number of
    quarantined rows as soon as they arrive.
    """

    on_progress: OnProgress = lambda done, total: None
    on_shard: Callable[[int, dict[str, int]], None] = lambda shard, rows: None
    on_failed: Callable[[int], None] = lambda count: None
    is_stopping: Callable[[], bool] = lambda: False
    grace_s: float = 20.0
    readers: int = 1
    """Actors that read and decode, each nearly a core."""


def ingest(plan: pa.Table, spec: ReadSpec, callbacks: RunCallbacks | None = None) -> int:
    """Turn every missing shard of the plan into a committed shard of samples and rejects.

    Returns the instances that ended in this run; fewer than were missing where the run was stopped.

    Raises:
        OSError: the output cannot be written; what was committed stays.
        LeaseLostError: another run took the folder over.
    """
    calls = callbacks or RunCallbacks()
    missing = ledger.missing_shards(spec.folder, plan)
    tally = Tally(plan, missing, calls.on_progress)
    if not missing:
        return 0
    for block in blocks(per_shard(missing, _ingest_shard, spec, calls.readers), calls):
        for row in block.to_pylist():
            if row["errno"] == ESTALE:
                raise LeaseLostError(f"another run took {spec.folder} over: this one ends, that one goes on")
            if row["errno"]:
                raise OSError(row["errno"], os.strerror(row["errno"]), str(spec.folder))
            if row["shard"] == _NOT_A_SHARD:
                continue
            counts = {name: row[name] for name in (*_INGESTED, _GROUPED) if name in row}
            calls.on_failed(counts["quarantine"])
            calls.on_shard(row["shard"], counts)
            tally.add(row["shard"])
    return tally.added


class Tally:
    """Instances done of all, for a progress line."""

    def __init__(self, plan: pa.Table, missing: list[int], on_progress: OnProgress) -> None:
        """``missing`` are the shards that are not committed yet."""
        self.rows_of_shard = {
            row["values"]: row["counts"] for row in plan["shard"].value_counts().to_pylist()
        }
        """Planned instances of each shard."""
        self._total = plan.num_rows
        self._before = self._total - sum(self.rows_of_shard[shard] for shard in missing)
        self._on_progress = on_progress
        self.added = 0
        """Instances of the shards that this run committed."""
        self._on_progress(self._before, self._total)

    def add(self, shard: int) -> None:
        """Count a committed shard."""
        self.added += self.rows_of_shard[shard]
        self._on_progress(self._before + self.added, self._total)


def order_of(missing: list[int]) -> list[int]:
    """The order in which missing shards are read: random, and always the same."""
    return Random(_ORDER_SEED).sample(missing, len(missing))


def per_shard(
    missing: list[int], read: Read, spec: ReadSpec, readers: int, waiting_bytes: float = math.inf
) -> ray.data.Dataset:
    """A block for each missing shard, through actors that run ``read`` on its number.

    Shards are read in a random order, always the same: archives lie in the order of years, sites and transfer
    syntaxes, and so those read so far tell how long the others take. No more begin while ``waiting_bytes`` of
    what was read lie in Ray's store.

    Actors stay, where Ray ends the idle processes of tasks once a node has more of them than cores. Each has
    its next shard at hand: Ray takes some 0.15 s to give it one, in which a core would be idle.
    """
    context = DataContext.get_current()
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=waiting_bytes
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress line says how it goes
    order = order_of(missing)
    shards = ray.data.from_items([{"shard": shard} for shard in order], override_num_blocks=len(order))
    return shards.map_batches(
        _Reader, batch_size=1, batch_format="pyarrow", num_cpus=_READER_CPUS,
        compute=ActorPoolStrategy(
            size=min(readers, len(missing)), max_tasks_in_flight_per_actor=_SHARDS_AT_HAND
        ),
        fn_constructor_kwargs={"read": read, "spec": spec},
    )  # fmt: skip


def blocks(dataset: ray.data.Dataset, callbacks: RunCallbacks) -> Iterator[pa.Table]:
    """The blocks of a dataset as they arrive, in any order; none once a stop's grace has passed.

    A thread of its own waits for Ray, so that this one can look up: Ray has no way to wait for a while only.

    Raises:
        EngineError: what ended the work of an actor.
    """
    # A block fetched ahead would hold back the one before it, and with it a shard that could be committed.
    ahead = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    pool = ThreadPoolExecutor(1)
    ends_s: float | None = None
    try:
        while True:
            coming = pool.submit(next, ahead, None)
            while not wait([coming], timeout=_LOOK_S).done:
                if ends_s is None and callbacks.is_stopping():
                    ends_s = time.monotonic() + callbacks.grace_s
                if ends_s is not None and time.monotonic() > ends_s:
                    return
            table = coming.result()
            if table is None:
                return
            raise_carried(table)
            yield table
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


Work = Callable[[Any, pa.Table], pa.Table]
_ERROR = ("error_code", "error_message")


def carrying(work: Work) -> Work:
    """The method of an actor, whose EngineError travels as a row: Ray would wrap and cut the exception."""

    @functools.wraps(work)
    def carried(actor: Any, batch: pa.Table) -> pa.Table:
        try:
            return work(actor, batch)
        except EngineError as error:
            return pa.table({name: [text] for name, text in zip(_ERROR, error_words(error), strict=True)})

    return carried


def is_carried(batch: pa.Table) -> bool:
    """Whether a block holds an error, or rows beside one."""
    return _ERROR[0] in batch.column_names


def raise_carried(batch: pa.Table) -> None:
    """Raise the error that a block holds, as it was in the actor.

    Raises:
        EngineError: of the class that was raised there.
    """
    if is_carried(batch):
        found = batch.filter(pc.is_valid(batch[_ERROR[0]]))
        raise error_of(*(found[name][0].as_py() for name in _ERROR))


def planned_rows(folder: Path, shard: int) -> list[dict[str, Any]]:
    """The plan rows of one shard."""
    rows = pq.read_table(folder / ledger.PLAN_NAME, filters=[("shard", "==", shard)])
    return cast("list[dict[str, Any]]", rows.to_pylist())


_INGESTED = ("samples", "filtered", "quarantine")
_GROUPED = "grouped"


def _ingest_shard(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Read, decode, preprocess and commit one shard; gives its number and rows by table.

    What the disk refuses travels as ``errno``: an exception would reach the driver wrapped and cut by Ray.
    """
    (shard,) = batch["shard"].to_pylist()
    row = {"shard": _NOT_A_SHARD, "errno": 0, **dict.fromkeys(_INGESTED, 0)}
    if spec.pace.may_start():
        try:
            tables = read_shard(planned_rows(spec.folder, shard), spec)
            row |= {**ledger.commit_shard(spec.folder, shard, tables, spec.pace.staging), "shard": shard}
        except LeaseLostError:
            row["errno"] = ESTALE
        except OSError as error:
            row["errno"] = error.errno or EIO
    return pa.table({name: pa.array([value], pa.int64()) for name, value in row.items()})


class _Reader:
    """Actor: runs ``read`` on the number of each shard that it is given."""

    def __init__(self, read: Read, spec: ReadSpec) -> None:
        self._read, self._spec = read, spec

    @carrying
    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._read(batch, self._spec)
