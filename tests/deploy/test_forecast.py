"""How long a run still takes, told from archives whose parts cost different times."""

from __future__ import annotations

import heapq
from itertools import islice, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.deploy.forecast import Forecast, sample_places
from engine.deploy.hands import TASKS_IN_HAND
from engine.sources import fitting_shard_size

START_S, BETWEEN_S, CONTENTION = 1.5, 0.02, 1.1
"""What a worker's first piece costs more, what passes between two tasks, and how much slower all is then."""
BLOCKS = (0.1, 0.02, 0.06, 0.03, 0.04, 0.05, 0.02, 0.03)


def run(cost_s_N: NDArray[np.float64], workers: int, *, is_in_turn: bool) -> list[tuple[float, float]]:
    """Told and true seconds left at each shard that comes, from a twentieth of the work on.

    The first tasks are given out in turn, or each worker is given its two before the next one is there.
    """
    count, taken = len(cost_s_N), np.zeros(len(cost_s_N), bool)
    starts = np.arange(0, count, fitting_shard_size(count))
    dealt = sample_places(count, workers)
    forecast = Forecast(count=count, starts=starts, workers=workers, samples=len(dealt))
    sampled = [np.concatenate(pieces[1:]) for pieces in dealt]
    for pieces in dealt:
        taken[np.concatenate(pieces)] = True
    shards = [np.arange(start, stop) for start, stop in pairwise([*starts, count])]
    tasks = [*sampled, *(place_N[~taken[place_N]] for place_N in shards)]
    cost_T = [cost_s_N[np.concatenate(pieces)].sum() for pieces in dealt]
    cost_T += [CONTENTION * cost_s_N[place_N].sum() + BETWEEN_S for place_N in tasks[len(dealt) :]]

    def holder(task: int) -> int:
        return task % workers if is_in_turn else task // TASKS_IN_HAND

    first = range(min(TASKS_IN_HAND * workers, len(tasks)))
    held = [[task for task in first if holder(task) == worker] for worker in range(workers)]
    waiting = iter(range(len(first), len(tasks)))
    busy = [(START_S + cost_T[mine[0]], worker) for worker, mine in enumerate(held) if mine]
    heapq.heapify(busy)
    told = []
    while busy:
        now_s, worker = heapq.heappop(busy)
        task = held[worker].pop(0)
        held[worker] += islice(waiting, 1)
        if held[worker]:
            heapq.heappush(busy, (now_s + cost_T[held[worker][0]], worker))
        slowed = 1.0 if task < len(dealt) else CONTENTION
        forecast.come(task, f"actor {worker}", tasks[task], slowed * cost_s_N[tasks[task]], now_s)
        left_s = forecast.left_s(now_s)
        assert left_s is not None
        if busy and int(forecast.came_n.sum()) >= 0.05 * count:
            told.append((now_s, left_s))
    return [(left_s, now_s - at_s) for at_s, left_s in told]


@pytest.mark.parametrize(
    ("count", "workers"), [(5000, 2), (20_000, 1), (20_000, 4), (100_000, 2), (100_000, 16)]
)
@pytest.mark.parametrize("order", ["even", "quick", "blocks", "many"])
@pytest.mark.parametrize("is_in_turn", [True, False])
def test_time_left_is_near_the_truth(is_in_turn: bool, order: str, count: int, workers: int) -> None:
    random = np.random.default_rng(workers)
    blocks_N = {
        "even": np.full(count, 0.04),
        "quick": np.full(count, 0.004),
        "blocks": np.repeat(BLOCKS, count // len(BLOCKS)),
        "many": np.repeat(random.uniform(0.01, 0.1, 40), count // 40),
    }[order]
    told = run(blocks_N * random.lognormal(0.0, 0.4, count), workers, is_in_turn=is_in_turn)
    left_s, true_s = np.array(told).T
    is_near = np.abs(left_s - true_s) <= 0.2 * true_s
    assert is_near.mean() >= 0.9
    assert is_near[true_s > 0.1 * true_s[0]].all()


@pytest.mark.parametrize("workers", [1, 3, 64])
@pytest.mark.parametrize("count", [0, 1, 639, 640, 5000, 1_000_000])
def test_a_sample_is_small_and_from_everywhere(count: int, workers: int) -> None:
    pieces = sample_places(count, workers)
    places = [place for worker in pieces for piece in worker for place in piece.tolist()]
    assert len(places) == len(set(places)) <= 0.05 * count
    assert len(pieces) <= workers
    assert all(0 <= place < count for place in places)
    assert bool(places) == (count >= 640)
    if places:
        assert np.histogram(places, bins=32, range=(0, count))[0].min() > 0


def test_nothing_is_told_before_anything_came_and_nothing_is_left_at_the_end() -> None:
    forecast = Forecast(count=10, starts=np.array([0, 5]), workers=2)
    assert forecast.left_s(0.0) is None
    forecast.come(0, "a", np.arange(5), np.full(5, 2.0), 10.0)
    assert forecast.left_s(10.0) == pytest.approx(10.0)
    forecast.come(1, "b", np.arange(5, 10), np.full(5, 2.0), 20.0)
    assert forecast.left_s(20.0) == 0.0


def test_a_task_behind_a_long_one_waits_for_it() -> None:
    """Eight tasks of 4 s, but the fifth of 20 s, by three workers: the eighth waits behind it, up to 28 s."""
    cost_s_N = np.full(3200, 0.01)
    cost_s_N[1600:2000] = 0.05
    forecast = Forecast(count=3200, starts=np.arange(0, 3200, 400), workers=3, samples=3)
    for task, pieces in enumerate(sample_places(3200, 3)):
        place_N = np.concatenate(pieces)
        forecast.come(task, "abc"[task], place_N, cost_s_N[place_N], 0.0)
    told = []
    for now_s, task, worker in (
        (4, 0, "a"),
        (4, 1, "b"),
        (4, 2, "c"),
        (8, 3, "a"),
        (8, 5, "c"),
        (12, 6, "a"),
        (24, 4, "b"),
    ):
        place_N = np.arange(400 * task, 400 * (task + 1))
        forecast.come(3 + task, worker, place_N, cost_s_N[place_N], float(now_s))
        told.append(forecast.left_s(float(now_s)))
    # At first the eighth may be the third worker's, too: both are through at 4 s.
    assert told[1:] == pytest.approx([24.0, 24.0, 20.0, 20.0, 16.0, 4.0])


def test_a_task_in_two_pieces_ends_once() -> None:
    forecast = Forecast(count=40, starts=np.arange(0, 40, 10), workers=1)
    for first in (0, 5):
        forecast.come(0, "a", np.arange(first, first + 5), np.full(5, 0.1), 1.0)
    assert forecast.left_s(1.0) == pytest.approx(3.0)
