"""Which tasks workers have in hand: each does one and holds the next, so that it never waits to be told."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import InitVar, dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

TASKS_IN_HAND = 2


@dataclass(slots=True, kw_only=True)
class Hands:
    """So many ``workers`` and ``tasks`` 0, 1, ..., given out in this order to whoever is through with one.

    Who holds what is believed until a task comes from another worker than it was believed to be with.
    """

    workers: int
    tasks: InitVar[int]
    _free_s: list[float | None] = field(init=False)
    """When each hand was through with its last task; None where it is not heard of yet."""
    _held: list[list[int]] = field(init=False)
    _waiting: deque[int] = field(init=False)
    _hand_of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self, tasks: int) -> None:
        """Give out the first tasks in turn."""
        first = range(min(tasks, TASKS_IN_HAND * self.workers))
        self._held = [list(first[hand :: self.workers]) for hand in range(self.workers)]
        self._waiting = deque(range(len(first), tasks))
        self._free_s = [None] * self.workers

    def through(self, task: int, worker: str, now_s: float) -> float | None:
        """Take note that ``worker`` is through with a task; when it began it, None for its first one."""
        hand = self._hand(worker, task)
        mine = self._held[hand]
        if task in self._waiting:
            self._waiting.remove(task)
        elif task in mine:
            mine.remove(task)
        else:
            other = next((held for held in self._held if task in held), None)
            if other is not None and mine:
                other[other.index(task)] = mine.pop(0)
            elif other is not None:
                other.remove(task)
        begun_s, self._free_s[hand] = self._free_s[hand], now_s
        if self._waiting:
            mine.append(self._waiting.popleft())
        return begun_s

    def ends_s(self, cost_s_T: NDArray[np.float64], now_s: float) -> float:
        """When the last worker is through, if each task takes its ``cost_s_T`` and none ends before now.

        The first task of a worker that is not heard of yet counts from when the first one was.
        """
        first_s = min((free_s for free_s in self._free_s if free_s is not None), default=now_s)
        held = [list(tasks) for tasks in self._held]
        waiting = iter(self._waiting)
        busy = [
            (max((first_s if free_s is None else free_s) + cost_s_T[tasks[0]], now_s), hand)
            for hand, (tasks, free_s) in enumerate(zip(held, self._free_s, strict=True))
            if tasks
        ]
        heapq.heapify(busy)
        end_s = now_s
        while busy:
            end_s, hand = busy[0]
            held[hand] = [*held[hand][1:], *islice(waiting, 1)]
            if held[hand]:
                heapq.heapreplace(busy, (end_s + cost_s_T[held[hand][0]], hand))
            else:
                heapq.heappop(busy)
        return float(end_s)

    def _hand(self, worker: str, task: int) -> int:
        """The worker's; of one not heard of before the one with the task, else a free or the most silent."""
        if worker not in self._hand_of:
            named = set(self._hand_of.values())
            order = sorted(
                range(self.workers),
                key=lambda hand: (hand in named, task not in self._held[hand], self._free_s[hand] or 0.0),
            )
            self._hand_of[worker] = order[0]
        return self._hand_of[worker]
