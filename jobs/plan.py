"""The plan of a verb that goes over a source: listed anew, checked against the folder's, or grown."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine import sources
from engine.errors import InstanceError, UsageError
from engine.ingest.shard import ReadSpec
from engine.ingest.throttle import Meter
from engine.store import ledger, revisions, schema
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_bytes
from jobs.console import planning
from jobs.salt import check_of

_READERS_PER_CORE = 4  # digests wait for disk or network more than for a core

SHARD_SIZE_HELP = (
    "Instances in one shard, the unit of resuming; by default what --out was begun with, else a 128th of "
    "SOURCE, 64 at least and 256 at most."
)

Finish = Callable[[pa.Table], object]
ManifestOf = Callable[[int], dict[str, Any]]
"""What a folder says of how it is made, by its shard size; a resumed job must say the same."""


def require_apart(source: str, out: Path) -> None:
    """Refuse to write into the archive: a resumed job would find its own files there.

    Raises:
        UsageError: ``out`` lies in ``source``, or is it.
    """
    root = sources.local_root(source)
    if root is not None and out.resolve().is_relative_to(root):
        raise UsageError(f"{out} lies in the archive {source}: choose an --out beside it")


def begun_plan(
    spec: ReadSpec,
    manifest_of: ManifestOf,
    shard_size: int | None,
    *,
    grow: Finish | None = None,
    retry: Collection[str] = (),
) -> pa.Table:
    """Begin or resume the folder of ``spec``, whose lease is held; gives the plan that is to be done.

    Without a ``shard_size`` a folder keeps its own; a new one has that which fits the source.

    With ``grow`` a folder that was begun before takes in what its source has by now: first ``grow`` finishes
    the plan as it stands, then new members and those whose bytes changed are planned behind it. Behind that
    come the instances that were quarantined for a reason in ``retry``, as a further version of each; without
    ``grow`` nothing else that is new or changed is taken in.

    Raises:
        TableError: the folder was begun otherwise, under another salt, or, without ``grow``, on other inputs.
    """
    size = shard_size or _size_of(spec.folder)
    if size:  # a folder that was begun otherwise is refused before a long listing
        _begin(spec, manifest_of(size))
    with planning() as on_plan:
        listing = sources.plan(spec.source, size, on_plan)
    if not size:
        size = sources.fitting_shard_size(listing.num_rows)
        _begin(spec, manifest_of(size))
    if grow is None or not (spec.folder / ledger.PLAN_NAME).exists():
        plan = _standing(spec, listing, retry)
    else:
        before = ledger.read_plan(spec.folder)
        if not ledger.is_complete(spec.folder):
            grow(before)
        plan = _grown(spec, before, listing, size)
    return _retried(spec, plan, listing, retry, size) if retry else plan


def _begin(spec: ReadSpec, manifest: dict[str, Any]) -> None:
    ledger.begin(spec.folder, {**manifest, "salt_check": check_of(spec.salt)}, spec.staging)


def _size_of(folder: Path) -> int | None:
    """The shard size that a folder was begun with; None where it was not begun."""
    path = folder / MANIFEST_NAME
    manifest = read_json(path) if path.exists() else {}
    size: int | None = manifest.get("config", manifest).get("shard_size")
    return size


def _standing(spec: ReadSpec, listing: pa.Table, retry: Collection[str]) -> pa.Table:
    """The plan as it stands, or a new one. A retry does not ask whether the source is still as planned."""
    is_begun = (spec.folder / ledger.PLAN_NAME).exists()
    begun_on = read_json(spec.folder / MANIFEST_NAME).get("source")
    if retry and is_begun and begun_on == sources.identity(spec.source):
        return ledger.read_plan(spec.folder)
    forgiven = _failed(spec.folder, retry)["path"] if retry else None
    return ledger.write_plan(spec.folder, listing, spec.staging, forgiven=forgiven)


def _grown(spec: ReadSpec, before: pa.Table, listing: pa.Table, shard_size: int) -> pa.Table:
    members = revisions.same_size(before, listing).join(ledger.digests(spec.folder), keys="instance_index")
    threads = _READERS_PER_CORE * (os.cpu_count() or 1)
    meter = Meter(spec.pace.per_second)
    same = revisions.unchanged(members, lambda path: _digest(spec, path, meter), threads=threads)
    plan = revisions.grown(before, listing, same, shard_size)
    added = plan.slice(before.num_rows)
    if added.num_rows:
        changed = sum(version > 1 for version in added["version"].to_pylist())
        facts = {
            "new": added.num_rows - changed,
            "changed": changed,
            "unchanged": len(same),
            "vanished": revisions.vanished(before, listing),
        }
        ledger.grow_plan(spec.folder, plan, facts, spec.staging)
    return plan


def _failed(folder: Path, reasons: Collection[str]) -> pa.Table:
    """Plan rows of what is quarantined for one of ``reasons``; none where there is no plan yet."""
    if not (folder / ledger.PLAN_NAME).exists():
        return schema.PLAN.empty_table()
    plan = ledger.read_plan(folder)
    return plan.filter(
        pc.is_in(plan["instance_index"], ledger.quarantined(folder, reasons)["instance_index"])
    )


def _retried(
    spec: ReadSpec, before: pa.Table, listing: pa.Table, reasons: Collection[str], shard_size: int
) -> pa.Table:
    """The plan and, behind it, what was quarantined for one of ``reasons``; a begun retry goes on."""
    wanted = sorted(set(reasons))
    is_begun = ledger.last_growth(spec.folder).get("retry") == wanted
    if is_begun and ledger.missing_shards(spec.folder, before):
        return before
    failed = _failed(spec.folder, wanted)["instance_index"]
    plan = revisions.again(before, listing, failed.combine_chunks(), shard_size)
    if plan.num_rows > before.num_rows:
        facts = {"retry": wanted, "retried": plan.num_rows - before.num_rows}
        ledger.grow_plan(spec.folder, plan, facts, spec.staging)
    return plan


def _digest(spec: ReadSpec, path: str, meter: Meter) -> str | None:
    meter.take()
    try:
        return sha256_of_bytes(sources.read(spec.source, path, max_bytes=spec.limits.file_bytes))
    except InstanceError:
        return None
