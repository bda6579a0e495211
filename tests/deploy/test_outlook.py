"""What of a plan is read before all else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from engine.deploy.outlook import Outlook, sample_of, shards_of


def plan(count: int, suffix: str = ".dcm") -> pa.Table:
    return pa.table(
        {
            "instance_index": pa.array(np.arange(count)),
            "path": [f"{number:06d}{suffix}" for number in range(count)],
            "shard": pa.array(np.arange(count) // 256, pa.int32()),
        }
    )


def test_the_sample_is_of_missing_shards_only() -> None:
    rows = shards_of(plan(5000), [3, 4, 5, 6, 9])
    sampled = {index for pieces in sample_of(rows, "/archive", 2) for piece in pieces for index in piece}
    assert sampled
    assert {index // 256 for index in sampled} == {3, 4, 5, 6, 9}


def test_streams_have_no_sample() -> None:
    assert not any(piece for pieces in sample_of(plan(5000), "/a.tar.gz", 2) for piece in pieces)
    inside = plan(5000, ".tgz!/1.dcm")
    assert not any(piece for pieces in sample_of(inside, "/archive", 2) for piece in pieces)
    assert any(piece for pieces in sample_of(plan(5000), "/a.zip", 2) for piece in pieces)


def block(first: int, *, read_s: float | None, predict_s: float) -> pa.Table:
    return pa.table(
        {
            "instance_index": np.arange(first, first + 256),
            "reader": ["a"] * 256,
            "read_s": pa.array([read_s] * 256, pa.float64()),
            "predict_s": np.full(256, predict_s),
        }
    )


def test_the_slower_stage_tells_the_time_left() -> None:
    rows = plan(1024)
    read = Outlook(rows, [], readers=2, actors=1).left_s(block(0, read_s=0.1, predict_s=0.01))
    assert read == pytest.approx(2 * 25.6)  # three shards, two readers
    predict = Outlook(rows, [], readers=2, actors=1).left_s(block(0, read_s=0.1, predict_s=1.0))
    assert predict == pytest.approx(768.0)
    assert Outlook(rows, [], readers=2, actors=1).left_s(block(0, read_s=None, predict_s=0.1)) is None


def test_predicting_is_judged_by_the_later_half() -> None:
    outlook = Outlook(plan(1024), [], readers=2, actors=1)
    outlook.left_s(block(0, read_s=0.001, predict_s=2.0))
    assert outlook.left_s(block(256, read_s=0.001, predict_s=1.0)) == pytest.approx(512.0)
