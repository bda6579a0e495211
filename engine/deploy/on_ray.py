"""Ray Data: archive -> predictions. Actors read shards (``engine.ingest.on_ray``), others score the rows."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy

from engine.deploy.archive_alarm import Gate
from engine.deploy.bundle import open_bundle
from engine.deploy.engines import gpus_of
from engine.deploy.score import Scorer, predictions_schema, result_tables
from engine.ingest.on_ray import RunCallbacks, Tally, blocks, carrying, is_carried, per_shard, planned_rows
from engine.ingest.reuse import TABLES
from engine.ingest.shard import ReadSpec, read_rows
from engine.store import ledger

_PREDICTOR_CPUS = 0.1

# Rows that wait for a predictor are work that a killed run loses, and memory: for each worker so many shards.
_WAITING_SHARDS = 8
_LEAST_WAITING_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """What a predictor actor needs: each bundle, its identity and engine, and how many actors and threads.

    The bundles are in the order of the rules of the ``ReadSpec``.
    """

    bundles: tuple[Path, ...]
    sha256s: tuple[str, ...]
    engines: tuple[str, ...]
    actors: int = 1
    threads: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of each actor."""
        return gpus_of(self.engines)


@dataclass(slots=True, kw_only=True)
class RunStats:
    """What a run did: instances that ended, those taken from earlier rows, and busy seconds by stage.

    ``reused`` and ``predicted`` are rows: an instance has one for each model.
    """

    ended: int = 0
    reused: int = 0
    predicted: int = 0
    read_s: float = 0.0
    predict_s: float = 0.0


def score(
    plan: pa.Table,
    spec: ReadSpec,
    scoring: ScoreSpec,
    callbacks: RunCallbacks | None = None,
    gate: Gate | None = None,
) -> RunStats:
    """Score every missing shard of the plan; returns what was done in this run.

    A shard is committed when all its rows have come back, however Ray cut and mixed the blocks, and the
    ``gate`` gives it free.

    Raises:
        OSError: the output cannot be written; what was committed stays.
        LeaseLostError: another run took the folder over.
        BundleError: a bundle is no longer the one that the run began with.
    """
    calls, stats = callbacks or RunCallbacks(), RunStats()
    missing = ledger.missing_shards(spec.folder, plan)
    tally = Tally(plan, missing, calls.on_progress)
    if not missing:
        return stats
    readers = min(calls.readers, len(missing))
    waiting_bytes = _waiting_bytes(max(tally.rows_of_shard.values()), spec, readers + scoring.actors)
    gate = gate or Gate(missing, tally.rows_of_shard, {})
    rows = per_shard(missing, _read_rows, spec, readers, waiting_bytes).map_batches(
        _Scorer, batch_size=None, batch_format="pyarrow", zero_copy_batch=True,
        num_cpus=_PREDICTOR_CPUS, num_gpus=scoring.gpus, compute=ActorPoolStrategy(size=scoring.actors),
        fn_constructor_kwargs={"scoring": scoring},
    )  # fmt: skip
    bundles = list(map(open_bundle, scoring.bundles, scoring.sha256s))
    schemas = {bundle.task: predictions_schema(bundle) for bundle in bundles}
    parts: dict[int, list[pa.Table]] = defaultdict(list)
    for block in blocks(rows, calls):
        if not block.num_rows:
            continue
        _count(block, stats, calls)
        for shard in pc.unique(block["shard"]).to_pylist():
            parts[shard].append(block.filter(pc.equal(block["shard"], shard)))
            if sum(part.num_rows for part in parts[shard]) == parts[shard][0]["shard_rows"][0].as_py():
                whole = pa.concat_tables(parts.pop(shard), promote_options="default")
                for number, table in gate.take(shard, whole):
                    tables = result_tables([table], schemas)
                    calls.on_shard(
                        number, ledger.commit_shard(spec.folder, number, tables, spec.pace.staging)
                    )
                    tally.add(number)
    stats.ended = tally.added
    return stats


def _waiting_bytes(shard_rows: int, spec: ReadSpec, workers: int) -> int:
    pixels = max(math.prod(rule.view.size_HW) for rule in spec.rules)
    return max(_WAITING_SHARDS * workers * shard_rows * pixels, _LEAST_WAITING_BYTES)


def _count(block: pa.Table, stats: RunStats, calls: RunCallbacks) -> None:
    """Put the rows of one block into what was done."""
    by_table = {row["values"]: row["counts"] for row in block["table"].value_counts().to_pylist()}
    stats.reused += sum(by_table.get(name, 0) for name in TABLES.values())
    stats.predicted += by_table.get("samples", 0)
    stats.read_s += pc.sum(block["read_s"]).as_py() or 0.0
    stats.predict_s += pc.sum(block["predict_s"]).as_py() or 0.0
    if by_table.get("quarantine"):
        calls.on_failed(by_table["quarantine"])


def _read_rows(batch: pa.Table, spec: ReadSpec) -> pa.Table:
    """Read, decode and preprocess one shard; no rows where the run has been asked to stop.

    ``shard_rows`` says in each row how many rows there are: an instance has one for each model or for all.
    """
    if not spec.pace.may_start():
        return batch.slice(0, 0)
    (shard,) = batch["shard"].to_pylist()
    began_s = time.perf_counter()
    rows = read_rows(planned_rows(spec.folder, shard), spec)
    rows = rows.append_column("shard_rows", pa.repeat(pa.scalar(rows.num_rows), rows.num_rows))
    return _with_share(rows, "read_s", time.perf_counter() - began_s)


def _with_share(rows: pa.Table, name: str, spent_s: float) -> pa.Table:
    """Each row with its share of the seconds that were spent on all."""
    return rows.append_column(name, pa.repeat(pa.scalar(spent_s / max(rows.num_rows, 1)), rows.num_rows))


class _Scorer:
    """Actor: opens each bundle once, then scores the sample rows of each block."""

    def __init__(self, scoring: ScoreSpec) -> None:
        self._scoring = scoring
        self._scorer: Scorer | None = None

    @carrying
    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows or is_carried(batch):
            return batch
        began_s, given = time.perf_counter(), self._scoring
        self._scorer = self._scorer or Scorer(
            given.bundles, given.engines, given.sha256s, threads=given.threads
        )
        scored = self._scorer.score(batch)
        return _with_share(scored, "predict_s", time.perf_counter() - began_s)
