"""The plan of a verb that goes over a source: listed anew, checked against the folder's, or grown."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from engine import books, sources, versions
from engine.errors import InstanceError
from engine.manifest import MANIFEST_NAME, read_json, sha256_of_bytes
from engine.shard import ReadSpec
from jobs.console import planning

_READERS_PER_CORE = 4  # digests wait for disk or network more than for a core

Finish = Callable[[pa.Table], object]


def begun_plan(
    spec: ReadSpec, manifest: dict[str, Any], shard_size: int, *, grow: Finish | None = None
) -> pa.Table:
    """Begin or resume the folder of ``spec``, whose lease is held; gives the plan that is to be done.

    With ``grow`` a folder that was begun before takes in what its source has by now: first ``grow`` finishes
    the plan as it stands, then new members and those whose bytes changed are planned behind it.

    Raises:
        TableError: the folder was begun otherwise, or, without ``grow``, on other inputs.
    """
    books.begin(spec.folder, manifest)
    with planning() as on_plan:
        listing = sources.plan(spec.source, shard_size, on_plan)
    if grow is None or not (spec.folder / books.PLAN_NAME).exists():
        books.write_plan(spec.folder, listing)
        return listing
    before = books.read_plan(spec.folder)
    if not read_json(spec.folder / MANIFEST_NAME)["complete"]:
        grow(before)
    return _grown(spec, before, listing, shard_size)


def _grown(spec: ReadSpec, before: pa.Table, listing: pa.Table, shard_size: int) -> pa.Table:
    members = versions.same_size(before, listing).join(books.digests(spec.folder), keys="instance_index")
    threads = _READERS_PER_CORE * (os.cpu_count() or 1)
    same = versions.unchanged(members, lambda path: _digest(spec, path), threads=threads)
    plan = versions.grown(before, listing, same, shard_size)
    added = plan.slice(before.num_rows)
    if added.num_rows:
        changed = sum(version > 1 for version in added["version"].to_pylist())
        facts = {
            "new": added.num_rows - changed,
            "changed": changed,
            "unchanged": len(same),
            "vanished": versions.vanished(before, listing),
        }
        books.grow_plan(spec.folder, plan, facts)
    return plan


def _digest(spec: ReadSpec, path: str) -> str | None:
    try:
        return sha256_of_bytes(sources.read(spec.source, path, max_bytes=spec.limits.file_bytes))
    except InstanceError:
        return None
