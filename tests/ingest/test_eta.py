"""The rate of a run and the time left, against simulated workers."""

from __future__ import annotations

from random import Random

import pytest

from engine.ingest.eta import Rate


@pytest.mark.parametrize("workers", [1, 2, 16])
@pytest.mark.parametrize("shard", [32, 256])
def test_time_left_is_near_the_truth_once_it_is_no_bound(workers: int, shard: int) -> None:
    """Workers start for 20 s, then take a second for each 8 instances of a shard, give or take 30 %."""
    total, random = 640 * shard, Random(workers)
    free = [20.0] * workers
    ends = []
    for _ in range(total // shard):
        worker = free.index(min(free))
        free[worker] += shard / 8 * random.uniform(0.7, 1.3)
        ends.append(free[worker])
    ends.sort()
    rate = Rate(0.0, 0)
    for place, now in enumerate(ends[:-40], start=1):
        rate.advance(now, place * shard)
        if place * shard >= 0.05 * total and rate.is_settled:
            assert rate.left_s(now, total, rate.per_s()) == pytest.approx(ends[-1] - now, rel=0.2)
        assert rate.is_settled or place * shard < 0.1 * total
