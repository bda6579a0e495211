"""What of a plan is read before all else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.outlook import Outlook, sample_of, shards_of


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


def test_the_slower_stage_tells_the_time_left() -> None:
    rows = plan(1024)
    block = pa.table({"instance_index": np.arange(256), "read_s": np.full(256, 0.1)})
    read = Outlook(rows, [], readers=2, actors=1).left_s(block, 256, predict_s=2.56)
    assert read is not None
    assert 25.6 < read <= 2 * 25.6  # one reader has a shard in hand, and another follows
    predict = Outlook(rows, [], readers=2, actors=1).left_s(block, 256, predict_s=256.0)
    assert predict == 768.0
    unknown = block.set_column(1, "read_s", pa.nulls(256, pa.float64()))
    assert Outlook(rows, [], readers=2, actors=1).left_s(unknown, 256, predict_s=1.0) is None
