"""A plan that grows: what is new or changed is planned behind it, what is as it was is not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine.store import revisions, schema


def plan(*rows: tuple[str, int, int, int]) -> pa.Table:
    """Rows of path, shard, size and version; the index counts."""
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "instance_index": list(range(len(rows))),
            "path": columns[0],
            "shard": columns[1],
            "size_bytes": columns[2],
            "version": columns[3],
        },
        schema=schema.PLAN,
    )


BEFORE = plan(("a", 0, 10, 1), ("b", 0, 10, 1), ("c", 1, 10, 1), ("d", 1, -1, 1))
TWICE = plan(("a", 0, 10, 1), ("b", 0, 10, 1), ("a", 1, 12, 2), ("b", 2, 10, 2), ("a", 2, 13, 3))


def test_the_last_version_of_a_path_is_the_one_that_counts() -> None:
    last = revisions.latest(TWICE).sort_by("path").to_pydict()
    assert last == {"path": ["a", "b"], "instance_index": [4, 3], "size_bytes": [13, 10], "version": [3, 2]}
    assert revisions.superseded(TWICE).to_pylist() == [0, 1, 2]
    assert revisions.superseded(BEFORE).to_pylist() == []


def test_only_members_of_the_same_size_need_to_be_read_again() -> None:
    listing = plan(("a", 0, 10, 1), ("b", 0, 11, 1), ("d", 0, -1, 1), ("new", 0, 10, 1))
    met = revisions.same_size(BEFORE, listing)
    assert met.to_pydict() == {"path": ["a", "d"], "instance_index": [0, 3]}
    assert revisions.same_size(TWICE, listing)["instance_index"].to_pylist() == [], "the last size counts"


def test_unchanged_are_those_whose_digest_still_holds() -> None:
    members = pa.table({"path": ["a", "b", "c", "d"], "content_sha256": ["1", "2", None, "4"]})
    now = {"a": "1", "b": "other", "c": "3", "d": None}
    assert revisions.unchanged(members, now.__getitem__, threads=2).to_pylist() == ["a"]


def test_a_grown_plan_keeps_its_rows_and_plans_the_others_behind_them() -> None:
    listing = plan(*[(path, row // 2, 10, 1) for row, path in enumerate("abcdefg")])
    grown = revisions.grown(BEFORE, listing, pa.array(["a", "c"]), shard_size=2)
    assert grown.slice(0, 4).equals(BEFORE)
    assert grown.slice(4).to_pydict() == {
        "instance_index": [4, 5, 6, 7, 8],
        "path": ["b", "d", "e", "f", "g"],
        "shard": [2, 2, 3, 3, 4],
        "size_bytes": [10] * 5,
        "version": [2, 2, 1, 1, 1],
    }
    assert revisions.grown(BEFORE, listing, listing["path"], shard_size=2) is BEFORE


@pytest.mark.parametrize(("shard_size", "shards"), [(2, [2, 2, 2, 3]), (4, [2, 2, 2, 2]), (3, [2, 2, 2, 3])])
def test_what_the_listing_kept_together_stays_together(shard_size: int, shards: list[int]) -> None:
    listing = plan(("e", 0, 1, 1), ("f", 0, 1, 1), ("g", 0, 1, 1), ("h", 1, 1, 1))
    grown = revisions.grown(BEFORE, listing, pa.array([], pa.string()), shard_size=shard_size)
    assert grown["shard"].to_pylist()[4:] == shards


def test_members_that_are_gone_are_counted() -> None:
    assert revisions.vanished(BEFORE, plan(("a", 0, 10, 1), ("z", 0, 1, 1))) == 3
