"""How long a run still takes: from a few places all over its work, timed first, and from what came since.

Work is a row of places, cut in tasks that a fixed number of workers take in turn. Archives lie in the order
of their years, sites and transfer syntaxes, so the first places say little of the others: a sample is read
from everywhere before all else, and what a place costs is told by the part of the row that it lies in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.deploy.hands import Hands

NUM_PARTS = 32
_PIECE = 16
_MOST_SAMPLED = 0.05
_TRUSTED_PARTS = 1
"""The sample counts as much as one part of the row when it is held against what came."""


def sample_places(count: int, workers: int) -> list[list[NDArray[np.int64]]]:
    """For each worker, pieces of places [places] to read before all else, one from each part of the row.

    No place is in two of them. All together are at most a twentieth of the ``count`` places: a short row has
    none. Each worker begins at another part: its first piece pays for its own start.
    """
    each = min(int(_MOST_SAMPLED * count / NUM_PARTS), _PIECE * workers)
    bounds = _bounds(count)
    dealt: list[list[NDArray[np.int64]]] = []
    for worker in range(min(workers, each)):
        turn = worker * NUM_PARTS // workers
        parts = [(part + turn) % NUM_PARTS for part in range(NUM_PARTS)]
        dealt.append([_spread(bounds[part], bounds[part + 1], each)[worker::workers] for part in parts])
    return dealt


@dataclass(slots=True, kw_only=True)
class Forecast:
    """Of ``count`` places in tasks that start at ``starts``, done in this order by so many ``workers``.

    Before the tasks come so many ``samples``: they are the first of the tasks that workers are given.
    """

    count: int
    starts: NDArray[np.int64]
    workers: int
    samples: int = 0
    sampled_n: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_PARTS))
    sampled_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_PARTS))
    came_n: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_PARTS))
    came_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_PARTS))
    pauses_s: list[float] = field(default_factory=list)
    """What each task took beside its places."""
    _done: set[int] = field(default_factory=set)
    _hands: Hands = field(init=False)

    def __post_init__(self) -> None:
        """Nothing has come yet."""
        self._hands = Hands(workers=self.workers, tasks=self.samples + len(self.starts))

    def come(
        self,
        task: int,
        worker: str,
        place_N: NDArray[np.int64],
        spent_s_N: NDArray[np.float64],
        now_s: float,
    ) -> None:
        """Take note of what a task's places cost its worker; of a task in pieces, the first is its end.

        Tasks count from 0, the samples first. What is not timed is in no ``place_N``.
        """
        if task < self.samples:
            self._count(self.sampled_n, self.sampled_s, place_N, spent_s_N)
        else:
            self._count(self.came_n, self.came_s, place_N, spent_s_N)
        if task in self._done:
            return
        self._done.add(task)
        begun_s = self._hands.through(task, worker, now_s)
        if begun_s is not None and task >= self.samples:
            self.pauses_s.append(now_s - begun_s - float(spent_s_N.sum()))

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the last worker ends; None before anything is known."""
        cost_P = self._cost_of_parts()
        if cost_P is None:
            return None
        bounds = _bounds(self.count)
        upto_s = np.concatenate([[0.0], np.cumsum(cost_P * np.diff(bounds))])
        cost_T = np.diff(np.interp(np.append(self.starts, self.count), bounds, upto_s))
        cost_T += max(float(np.median(self.pauses_s)), 0.0) if self.pauses_s else 0.0
        return self._hands.ends_s(np.concatenate([np.zeros(self.samples), cost_T]), now_s) - now_s

    def _count(
        self,
        count_P: NDArray[np.float64],
        sum_P: NDArray[np.float64],
        place_N: NDArray[np.int64],
        spent_s_N: NDArray[np.float64],
    ) -> None:
        part_N = np.searchsorted(_bounds(self.count), place_N, side="right") - 1
        np.add.at(count_P, part_N, 1.0)
        np.add.at(sum_P, part_N, spent_s_N)

    def _cost_of_parts(self) -> NDArray[np.float64] | None:
        """Seconds [parts] of a place in each part, from what was seen there; what came rates the sample."""
        sampled, came = self.sampled_n.sum(), self.came_n.sum()
        if not sampled:
            return np.full(NUM_PARTS, self.came_s.sum() / came) if came else None
        is_sampled_P = self.sampled_n > 0
        places = np.arange(NUM_PARTS)
        cost = self.sampled_s[is_sampled_P] / self.sampled_n[is_sampled_P]
        sample_P = np.interp(
            places, places[is_sampled_P], cost
        )  # one without a sample is like its neighbours
        trusted_s = _TRUSTED_PARTS * sample_P.mean() * self.count / NUM_PARTS
        told_s = (self.came_n * sample_P)[is_sampled_P].sum()
        factor = (self.came_s[is_sampled_P].sum() + trusted_s) / (told_s + trusted_s)
        weight_P = np.maximum(self.sampled_n, 1.0)
        seen: NDArray[np.float64] = (self.came_s + factor * sample_P * weight_P) / (self.came_n + weight_P)
        return seen


def _spread(first: float, stop: float, count: int) -> NDArray[np.int64]:
    """So many different places from ``first`` up to, without, ``stop``."""
    return (first + (np.arange(count) + 0.5) * (stop - first) / count).astype(np.int64)


def _bounds(count: int) -> NDArray[np.float64]:
    return np.linspace(0, count, NUM_PARTS + 1)
