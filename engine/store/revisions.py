"""A source that is read again: what is new, what changed, and which rows are current.

A plan only grows. A member whose bytes changed is planned again under its next ``version``; the rows of
earlier versions stay in their shards and are superseded. All tables here are plans (``schema.PLAN``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from engine.store import schema

_UNKNOWN_SIZE = -1
_AT_ONCE = 1024


def latest(plan: pa.Table) -> pa.Table:
    """``path``, ``instance_index``, ``size_bytes`` and ``version`` of the last version of each path."""
    last = plan.group_by("path").aggregate([("instance_index", "max")])["instance_index_max"]
    rows = plan.filter(pc.is_in(plan["instance_index"], last))
    return rows.select(["path", "instance_index", "size_bytes", "version"])


def superseded(plan: pa.Table) -> pa.Array:
    """``instance_index`` of all rows that a later version of the same member replaced."""
    is_last = pc.is_in(plan["instance_index"], latest(plan)["instance_index"])
    return plan.filter(pc.invert(is_last))["instance_index"].combine_chunks()


def same_size(plan: pa.Table, listing: pa.Table) -> pa.Table:
    """``path`` and ``instance_index`` of the members that have the size of their last version."""
    met = listing.select(["path", "size_bytes"]).join(
        latest(plan), keys="path", join_type="inner", right_suffix="_before"
    )
    is_open = pc.or_(
        pc.equal(met["size_bytes"], met["size_bytes_before"]), pc.equal(met["size_bytes"], _UNKNOWN_SIZE)
    )
    return met.filter(is_open).select(["path", "instance_index"]).sort_by("path")


def unchanged(members: pa.Table, digest_of: Callable[[str], str | None], *, threads: int) -> pa.Array:
    """The paths among ``members`` (``path``, ``content_sha256``) whose bytes still have the digest.

    ``digest_of`` reads a path and gives its digest, None where it cannot be read. A member that had no
    digest, since it could not be read either, counts as changed: it is tried again.
    """
    known = members.filter(pc.is_valid(members["content_sha256"]))
    pairs = iter(zip(known["path"].to_pylist(), known["content_sha256"].to_pylist(), strict=True))
    same: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(pairs, _AT_ONCE)):  # in slices, so that no million futures wait at once
            digests = pool.map(digest_of, [path for path, _ in some])
            same += [path for (path, before), now in zip(some, digests, strict=True) if now == before]
    return pa.array(same, pa.string())


def grown(plan: pa.Table, listing: pa.Table, same: pa.Array, shard_size: int) -> pa.Table:
    """The plan and, behind it, every member of ``listing`` that is not in ``same``, in new shards.

    A shard takes whole shards of the listing, so what the listing kept together stays together.
    """
    fresh = listing.filter(pc.invert(pc.is_in(listing["path"], same))).sort_by("instance_index")
    return _behind(plan, fresh, shard_size)


def again(plan: pa.Table, listing: pa.Table, indices: pa.Array, shard_size: int) -> pa.Table:
    """The plan and, behind it, the members with these ``instance_index`` once more, in new shards.

    Only those are taken whose row is the last version of its path; their sizes are those of ``listing``.
    """
    last = latest(plan)["instance_index"]
    is_chosen = pc.and_(
        pc.is_in(plan["instance_index"], indices), pc.is_in(plan["instance_index"], last.combine_chunks())
    )
    fresh = plan.filter(is_chosen).sort_by("instance_index")
    sizes = listing["size_bytes"].take(pc.index_in(fresh["path"], listing["path"]))
    place = fresh.schema.get_field_index("size_bytes")
    sized = fresh.set_column(place, fresh.field(place), pc.coalesce(sizes, fresh["size_bytes"]))
    return _behind(plan, sized, shard_size)


def _behind(plan: pa.Table, fresh: pa.Table, shard_size: int) -> pa.Table:
    """The plan and, behind it, the members ``fresh``, each as the next version of its path."""
    if not fresh.num_rows:
        return plan
    before = latest(plan).select(["path", "version"])
    versions = fresh.select(["path", "instance_index"]).join(before, keys="path", join_type="left outer")
    version = pc.add(pc.fill_null(versions.sort_by("instance_index")["version"], 0), 1)
    first_index, first_shard = plan.num_rows, plan["shard"][-1].as_py() + 1
    columns = {
        "instance_index": pa.array(range(first_index, first_index + fresh.num_rows), pa.int64()),
        "path": fresh["path"],
        "shard": pa.array([first_shard + shard for shard in _packed(fresh["shard"], shard_size)], pa.int32()),
        "size_bytes": fresh["size_bytes"],
        "version": version.cast(pa.int32()),
    }
    return pa.concat_tables([plan, pa.table(columns, schema=schema.PLAN)]).combine_chunks()


def vanished(plan: pa.Table, listing: pa.Table) -> int:
    """How many paths of the plan the listing has no more."""
    paths = pc.unique(plan["path"])
    return int(pc.sum(pc.invert(pc.is_in(paths, listing["path"]))).as_py() or 0)


def _packed(shards: pa.ChunkedArray, shard_size: int) -> Iterator[int]:
    """New shard numbers from 0 for rows whose old numbers ascend; neighbours are merged up to the size."""
    packed, filled = 0, 0
    for group in pc.value_counts(shards).to_pylist():
        if filled and filled + group["counts"] > shard_size:
            packed, filled = packed + 1, 0
        filled += group["counts"]
        for _ in range(group["counts"]):
            yield packed
