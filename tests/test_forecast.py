"""How long a run still takes, told from archives whose parts cost different times."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.forecast import Forecast, sample_places
from engine.sources import fitting_shard_size

START_S, BETWEEN_S, CONTENTION = 1.5, 0.15, 1.1
"""What a worker's first piece costs more, what passes between two tasks, and how much slower all is then."""
BLOCKS = (0.1, 0.02, 0.06, 0.03, 0.04, 0.05, 0.02, 0.03)


def run(cost_s_N: NDArray[np.float64], workers: int) -> list[tuple[float, float]]:
    """Told and true seconds left at each shard that comes, from a twentieth of the work on."""
    count, taken = len(cost_s_N), np.zeros(len(cost_s_N), bool)
    size = fitting_shard_size(count)
    starts = np.arange(0, count, size)
    forecast = Forecast(count=count, starts=starts, workers=workers)
    free = []
    for pieces in sample_places(count, workers):
        now_s = START_S + sum(cost_s_N[piece].sum() for piece in pieces)
        timed = np.concatenate(pieces[1:])
        forecast.sample(timed, cost_s_N[timed], now_s)
        taken[np.concatenate(pieces)] = True
        free.append(now_s)
    free += [START_S] * (workers - len(free))
    heapq.heapify(free)
    came = []
    for start in starts:
        place_N = start + np.flatnonzero(~taken[start : start + size])
        end_s = free[0] + CONTENTION * cost_s_N[place_N].sum() + BETWEEN_S
        heapq.heapreplace(free, end_s)
        came.append((end_s, place_N))
    came.sort(key=lambda one: one[0])
    told = []
    for now_s, place_N in came[:-1]:
        forecast.come(place_N, CONTENTION * cost_s_N[place_N], now_s)
        left_s = forecast.left_s(now_s)
        assert left_s is not None
        if int(forecast.came_n.sum()) >= 0.05 * count:
            told.append((left_s, came[-1][0] - now_s))
    return told


@pytest.mark.parametrize(
    ("count", "workers"), [(5000, 2), (20_000, 1), (20_000, 4), (100_000, 2), (100_000, 16)]
)
@pytest.mark.parametrize("order", ["even", "quick", "blocks", "many"])
def test_time_left_is_near_the_truth(order: str, count: int, workers: int) -> None:
    random = np.random.default_rng(workers)
    blocks_N = {
        "even": np.full(count, 0.04),
        "quick": np.full(count, 0.004),
        "blocks": np.repeat(BLOCKS, count // len(BLOCKS)),
        "many": np.repeat(random.uniform(0.01, 0.1, 40), count // 40),
    }[order]
    told = run(blocks_N * random.lognormal(0.0, 0.4, count), workers)
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
    forecast.come(np.arange(5), np.full(5, 2.0), 10.0)
    assert forecast.left_s(10.0) == pytest.approx(10.0)
    forecast.come(np.arange(5, 10), np.full(5, 2.0), 20.0)
    assert forecast.left_s(20.0) == 0.0


def test_a_long_task_that_is_left_alone_counts_from_when_it_was_begun() -> None:
    """Eight tasks of 4 s, but the fifth of 20 s, by three workers: it is begun at 4 s, and ends at 24 s."""
    cost_s_N = np.full(3200, 0.01)
    cost_s_N[1600:2000] = 0.05
    forecast = Forecast(count=3200, starts=np.arange(0, 3200, 400), workers=3)
    for pieces in sample_places(3200, 3):
        place_N = np.concatenate(pieces)
        forecast.sample(place_N, cost_s_N[place_N], 0.0)
    told = []
    for now_s, task in ((4, 0), (4, 1), (4, 2), (8, 3), (8, 5), (12, 6), (12, 7)):
        place_N = np.arange(400 * task, 400 * (task + 1))
        forecast.come(place_N, cost_s_N[place_N], float(now_s))
        told.append(forecast.left_s(float(now_s)))
    assert told == pytest.approx([20.0, 20.0, 20.0, 16.0, 16.0, 12.0, 12.0])


def test_a_task_may_overtake_the_one_before_it() -> None:
    forecast = Forecast(count=40, starts=np.arange(0, 40, 10), workers=2)
    for now_s, task in ((2.0, 2), (2.0, 0), (2.0, 1)):
        forecast.come(np.arange(10 * task, 10 * (task + 1)), np.full(10, 0.1), now_s)
    assert forecast.left_s(2.5) == pytest.approx(0.5)
