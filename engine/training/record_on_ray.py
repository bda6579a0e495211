"""Teachers over all samples of an ingest folder by Ray Data: actors, each with the networks in memory.

The unit of work and of resumption is a shard. Only shard numbers and row counts travel; what is recorded goes
from the actor to the disk. A door to ``ray.data``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext

from engine.distillation.teacher_cache import missing_shards
from engine.errors import EngineError, TrainingError
from engine.ingest.malloc import ACTIVATIONS, HUGE_PAGES, keep_freed_memory
from engine.training.record_teacher import RecordSpec, open_teachers, record_shard

OnProgress = Callable[[int, int], None]


def record(shards: list[tuple[Path, int]], spec: RecordSpec, actors: int, on_progress: OnProgress) -> int:
    """Write every missing shard of a cache; ``shards`` are sample tables and their row counts.

    Returns the rows written. On a GPU ``spec.device`` is ``cuda`` and each actor has one.

    Raises:
        TrainingError: an actor failed; what was written stays.
    """
    missing = missing_shards(spec.folder, len(shards))
    total = sum(count for _, count in shards)
    done = total - sum(shards[shard][1] for shard in missing)
    on_progress(done, total)
    if not missing:
        return 0
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own progress line says how it goes
    items = [{"shard": shard, "path": str(shards[shard][0])} for shard in missing]
    is_gpu = spec.device != "cpu"
    written = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Recorder, batch_size=1, batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(actors, len(items))),
        num_cpus=spec.threads, num_gpus=1 if is_gpu else 0, fn_constructor_kwargs={"spec": spec},
        runtime_env={"env_vars": HUGE_PAGES},
    )  # fmt: skip
    rows = 0
    for block in written.iter_batches(batch_size=None, batch_format="pyarrow"):
        batch: Any = block  # a table, which Ray's own annotation does not say
        for count, error in zip(batch["rows"].to_pylist(), batch["error"].to_pylist(), strict=True):
            if error:
                raise TrainingError(error)
            rows += count
            on_progress(done + rows, total)
    return rows


class _Recorder:
    """Actor: opens the runs once, then writes shard after shard."""

    def __init__(self, spec: RecordSpec) -> None:
        keep_freed_memory(ACTIVATIONS)
        torch.set_num_threads(spec.threads)
        self._spec = spec
        self._nets = open_teachers(spec.runs, spec.task.learning().network, torch.device(spec.device))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of the one shard; what goes wrong travels as text: an exception would come wrapped."""
        (item,) = batch.to_pylist()
        rows, error = 0, None
        try:
            rows = record_shard(item["shard"], Path(item["path"]), self._nets, self._spec)
        except (EngineError, OSError) as failure:
            error = f"{item['path']} could not be recorded: {failure}"
        return pa.table({"rows": pa.array([rows], pa.int64()), "error": pa.array([error], pa.string())})
