"""How long scoring a plan still takes: what is read before all else, and what the rows that came say."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import sources
from engine.deploy.forecast import Forecast, sample_places

Sample = list[list[list[int]]]
"""``instance_index`` by reader and piece, as ``engine.deploy.forecast`` deals them."""


def shards_of(plan: pa.Table, shards: list[int]) -> pa.Table:
    """The rows of these shards of the plan, in its order."""
    return plan.filter(pc.is_in(plan["shard"], pa.array(shards, pa.int32())))


def sample_of(rows: pa.Table, source: str, readers: int) -> Sample:
    """What at most so many readers read of these rows first; nothing of streams, which have no way in."""
    sample = [
        [
            [row["instance_index"] for row in piece if not sources.is_stream(source, row["path"])]
            for piece in (rows.take(pa.array(place_N)).to_pylist() for place_N in pieces)
        ]
        for pieces in sample_places(rows.num_rows, readers)
    ]
    return [pieces for pieces in sample if any(pieces)]


class Outlook:
    """The seconds left of scoring these plan rows, block by block."""

    def __init__(self, rows: pa.Table, sample: Sample, *, readers: int, actors: int) -> None:
        """``readers`` are given the parts of the sample and then the shards; ``actors`` predict."""
        self._index_N = rows["instance_index"].to_numpy()
        starts, task_N = np.unique(rows["shard"].to_numpy(), return_index=True, return_inverse=True)[1:]
        self._task_N = len(sample) + task_N
        for task, pieces in enumerate(sample):
            sampled = [index for piece in pieces for index in piece]
            self._task_N[np.searchsorted(self._index_N, sampled)] = task
        self._actors = actors
        self._came, self._predict_s = [0], [0.0]
        self._forecast = Forecast(count=rows.num_rows, starts=starts, workers=readers, samples=len(sample))

    def left_s(self, block: pa.Table) -> float | None:
        """Take note of a block; seconds until the slower stage is through, None where none is known.

        ``block`` has ``instance_index``, ``reader``, and ``read_s`` and ``predict_s``, null where they tell
        nothing.
        """
        now_s = time.monotonic()
        place_N = np.searchsorted(self._index_N, block["instance_index"].to_numpy())
        task_N, reader_N, read_s_N = (
            self._task_N[place_N],
            block["reader"].to_numpy(),
            block["read_s"].to_numpy(),
        )
        for task in np.unique(task_N).tolist():
            is_N = task_N == task
            reader, timed_N = str(reader_N[is_N][0]), is_N & np.isfinite(read_s_N)
            self._forecast.come(task, reader, place_N[timed_N], read_s_N[timed_N], now_s)
        self._came.append(self._came[-1] + block.num_rows)
        self._predict_s.append(self._predict_s[-1] + (pc.sum(block["predict_s"]).as_py() or 0.0))
        read_s = self._forecast.left_s(now_s)
        return None if read_s is None else max(read_s, self._predict_left_s())

    def _predict_left_s(self) -> float:
        """By the later half of what came: while readers and predictors start, all are slower."""
        came, spent_s = self._came[-1], self._predict_s[-1]
        half = int(np.searchsorted(self._came, came / 2, side="right")) - 1
        cost_s = (spent_s - self._predict_s[half]) / (came - self._came[half])
        return cost_s * (len(self._index_N) - came) / self._actors
