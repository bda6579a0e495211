"""The rate of a run, and the seconds that are left at it, from what was received so far.

Shards are read in a random order (``engine.ingest.on_ray``), so what was received speaks for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S, MEMORY_ADVANCES = 120.0, 4
"""An advance counts half as much, or less, after so long; the last few always count."""
LEAST_SPAN = 0.5
"""Of the time up to the first advance: before that has passed again, advances say nothing of the rate."""


@dataclass(slots=True)
class Rate:
    """Instances per second from advances that come in lumps, as workers that began together end together.

    The slope of the least-squares line through the advances, older ones weighing less (West 1979, with
    forgetting): the time in which workers start is in no slope, and a lump is one place on the line however
    many advances it has. Until the advances span some time of their own, all is counted from the start: the
    rate is then at least this.
    """

    start_s: float
    start: int
    first_s: float = math.nan
    last_s: float = math.nan
    last: int = 0
    weight: float = 0.0
    mean_s: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    product: float = 0.0

    def advance(self, time_s: float, done: int) -> None:
        """Take note that ``done`` were done at ``time_s``."""
        if math.isnan(self.first_s):
            self.first_s = self.last_s = time_s
        by_time, by_count = math.exp2((self.last_s - time_s) / MEMORY_S), 1 - 1 / MEMORY_ADVANCES
        kept = self.weight * max(by_time, by_count)
        scale = kept / self.weight if self.weight else 0.0
        self.weight = kept + 1
        apart_s, apart = time_s - self.mean_s, done - self.mean
        self.mean_s += apart_s / self.weight
        self.mean += apart / self.weight
        self.square = scale * self.square + apart_s**2 * kept / self.weight
        self.product = scale * self.product + apart_s * apart * kept / self.weight
        self.last_s, self.last = time_s, done

    @property
    def is_settled(self) -> bool:
        """Whether the advances alone give the rate, without the time before the first one."""
        least_s = LEAST_SPAN * (self.first_s - self.start_s)
        return self.last_s - self.first_s >= least_s and self.product > 0

    def per_s(self) -> float | None:
        """The rate; None where nothing has advanced yet."""
        if math.isnan(self.first_s) or self.last_s <= self.start_s:
            return None
        if self.is_settled:
            return self.product / self.square
        return (self.last - self.start) / (self.last_s - self.start_s)

    def left_s(self, now_s: float, total: int, rate: float | None) -> float | None:
        """Seconds until all are done at this rate; None where there is none."""
        return max((total - self.last) / rate - (now_s - self.last_s), 0.0) if rate else None
