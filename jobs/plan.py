"""The plan of a verb that goes over a source: listed, checked against that of the folder, or grown."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine import sources
from engine.errors import InstanceError, TableError, UsageError
from engine.ingest.instance import InputRule
from engine.ingest.shard import ReadSpec
from engine.ingest.survey import named, series_of
from engine.ingest.throttle import Meter
from engine.sources.listing import fitting_shard_size
from engine.store import ledger, passed_over, revisions, schema
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_bytes
from jobs.console import planning
from jobs.salt import check_of

log = logging.getLogger(__name__)

_COMPARED = 8  # files, where a folder is gone on with
_READ_TABLES = ("samples", "predictions", "abstained", "filtered")
_READERS_PER_CORE = 4  # digests wait for disk or network more than for a core

ManifestOf = Callable[[int], dict[str, Any]]
"""What a folder says of how it is made, by its shard size; a resumed job must say the same."""


def require_apart(source: str, out: Path) -> None:
    """Refuse to write into the archive: a resumed job would find its own files there.

    Raises:
        UsageError: ``out`` lies in ``source``, or is it; or there is no such source.
    """
    root = sources.local_root(source)
    if root is not None and out.resolve().is_relative_to(root):
        raise UsageError(f"{out} lies in the archive {source}: choose an --out beside it")


def require_instances(rules: Collection[InputRule], **options: object) -> None:
    """Refuse options that take files one by one where a task takes series.

    Raises:
        UsageError: one of the ``options`` is given, and a rule takes series.
    """
    given = [name for name, value in options.items() if value]
    if given and any(rule.grain == "series" for rule in rules):
        raise UsageError(
            f"--{given[0]} takes files one by one, and this task takes whole series: leave it out; "
            "where SOURCE has changed, choose a new --out"
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds now, as a plan, and the shard size of the folder."""

    plan: pa.Table
    shard_size: int


def begin(
    spec: ReadSpec, manifest_of: ManifestOf, shard_size: int | None, *, is_moved: bool = False
) -> Listing:
    """Begin the folder of ``spec``, whose lease is held, or accept the one that was begun; lists the source.

    ``is_moved`` accepts that the source has another address than the folder was begun with.

    Without a ``shard_size`` a folder keeps its own; a new one has that which fits the source.

    Raises:
        TableError: the folder was begun otherwise, on another source, or under another salt.
        UsageError, StorageError: the source cannot be listed.
        UsageError: labels or covariates are of another archive.
    """
    size = shard_size or _size_of(spec.folder)
    is_begun = bool(size) and (spec.folder / MANIFEST_NAME).exists()
    if size and is_begun:  # a folder that was begun otherwise is refused before a long listing
        _write_manifest(spec, manifest_of(size), is_moved=is_moved)
    with planning() as on_plan:
        series = series_of(spec.source, spec.rules, spec.pace.per_second)
        listing = sources.plan(spec.source, size, on_plan, series, apart=True)
    size = size or fitting_shard_size(listing.num_rows)
    if not is_begun:
        _require_known(spec, listing)
        _write_manifest(spec, manifest_of(size))
    return Listing(listing, size)


def _require_known(spec: ReadSpec, listing: pa.Table) -> None:
    """Refuse tables that name no instance of the source; warn where only some of its members were asked.

    Raises:
        UsageError: all members were asked.
    """
    labels = spec.labels.values_by_uid if spec.labels else None
    tables = {"label table": labels, "covariate table": spec.covariates}
    for what, uids in tables.items():
        if uids is None:
            continue
        asked = named(spec.source, listing, uids, spec.pace.per_second)
        if asked.known or not asked.instances:
            continue
        told = f"the {what} names none of the {asked.instances} instances"
        if asked.looked == listing.num_rows:
            raise UsageError(f"{told} of {spec.source}: are its UIDs those of this archive?")
        log.warning("%s that were looked at before the start: are its UIDs those of this archive?", told)


def unfinished(folder: Path) -> pa.Table | None:
    """The plan of a folder that was begun before and is not complete; None where there is none.

    An incremental run does it before it takes in what is new.
    """
    is_begun = (folder / ledger.PLAN_NAME).exists()
    return ledger.read_plan(folder) if is_begun and not ledger.is_complete(folder) else None


def to_do(
    spec: ReadSpec, listing: Listing, *, incremental: bool = False, retry: Collection[str] = ()
) -> pa.Table:
    """The plan that is to be done, written to the folder of ``spec``.

    ``incremental``: a folder that has a plan takes in what the ``listing`` has by now; new members and those
    whose bytes changed are planned behind it. Behind that come the instances that were quarantined for a
    reason in ``retry``, as a further version of each; without ``incremental`` nothing else is taken in
    (``waiting`` counts it).

    Raises:
        TableError: the folder was begun on another archive, by the names or by the bytes of some files.
    """
    if not (spec.folder / ledger.PLAN_NAME).exists():
        plan = ledger.write_plan(spec.folder, listing.plan, spec.staging)
    elif incremental:
        plan = _grown(spec, ledger.read_plan(spec.folder), listing)
    else:
        plan = ledger.read_plan(spec.folder)
        _require_same_archive(spec, plan, listing.plan)
    ledger.move(spec.folder, sources.identity(spec.source), spec.staging)
    return _retried(spec, plan, listing, retry) if retry else plan


def _write_manifest(spec: ReadSpec, manifest: dict[str, Any], *, is_moved: bool = False) -> None:
    facts = {**manifest, "salt_check": check_of(spec.salt)}
    ledger.begin(spec.folder, facts, spec.staging, is_moved=is_moved)


def _size_of(folder: Path) -> int | None:
    """The shard size that a folder was begun with; None where it was not begun."""
    path = folder / MANIFEST_NAME
    manifest = read_json(path) if path.exists() else {}
    size: int | None = manifest.get("config", manifest).get("shard_size")
    return size


def waiting(plan: pa.Table, listing: Listing) -> dict[str, Any]:
    """What a live archive has by now beyond the plan, for the summary of a verb; empty where nothing is.

    ``new`` and ``changed`` files wait for ``--incremental``; the rows of those that are ``gone`` say so,
    unless they were read before.
    """
    fresh = pc.sum(pc.invert(pc.is_in(listing.plan["path"], plan["path"]))).as_py() or 0
    changed = listing.plan.num_rows - fresh - revisions.same_size(plan, listing.plan).num_rows
    found = {"new": fresh, "changed": changed, "gone": revisions.vanished(plan, listing.plan)}
    told = {name: count for name, count in found.items() if count}
    return {"waiting_for_incremental": told} if told else {}


def _require_same_archive(spec: ReadSpec, plan: pa.Table, listing: pa.Table) -> None:
    """Refuse an archive that has none of the planned names, or other bytes under them.

    A few of the files that ended are read again and compared with the digest in their row. Some may have
    changed meanwhile; where most have, it is another archive. One that cannot be read proves nothing.

    Raises:
        TableError: it is another archive.
    """
    other = "choose another --out; or give --incremental to take in what changed"
    if not pc.any(pc.is_in(plan["path"], listing["path"])).as_py():
        raise TableError(f"no file that {spec.folder} was begun on is in this source any more: {other}")
    meter = Meter(spec.pace.per_second)
    ended = _some_that_ended(spec.folder, revisions.same_size(plan, listing)["path"])
    read = [(before, now) for path, before in ended if (now := _digest(spec, path, meter)) is not None]
    differ = sum(before != now for before, now in read)
    if differ > len(read) / 2:
        raise TableError(
            f"{differ} of {len(read)} files that were looked at have other bytes than when they went into "
            f"{spec.folder}: this is another archive, or its files were changed: {other}"
        )


def _some_that_ended(folder: Path, paths: pa.ChunkedArray) -> list[tuple[str, str]]:
    """Path and digest of some rows that count, of these ``paths``, chosen by chance from many shards."""
    tables = [table for name in _READ_TABLES for table in ledger.tables_of(folder, name)]
    stale = ledger.superseded(folder)
    chosen = []
    for table in random.sample(tables, min(_COMPARED, len(tables))):
        rows = ledger.read_table(table, ("instance_index", "path", "content_sha256"))
        counts = pc.and_(pc.is_valid(rows["content_sha256"]), pc.is_in(rows["path"], paths))
        rows = rows.filter(pc.and_(counts, pc.invert(pc.is_in(rows["instance_index"], stale))))
        picked = random.sample(range(rows.num_rows), min(_COMPARED, rows.num_rows))
        chosen += [
            (row["path"], row["content_sha256"])
            for row in rows.take(pa.array(picked, pa.int64())).to_pylist()
        ]
    return random.sample(chosen, min(_COMPARED, len(chosen)))


def _grown(spec: ReadSpec, before: pa.Table, listing: Listing) -> pa.Table:
    members = revisions.same_size(before, listing.plan).join(
        ledger.digests(spec.folder), keys="instance_index"
    )
    threads = _READERS_PER_CORE * (os.cpu_count() or 1)
    meter = Meter(spec.pace.per_second)
    same = revisions.unchanged(members, lambda path: _digest(spec, path, meter), threads=threads)
    plan = revisions.grown(before, listing.plan, same, listing.shard_size)
    plan = passed_over.noted(plan, passed_over.of(listing.plan.schema))
    added = plan.slice(before.num_rows)
    if added.num_rows:
        changed = sum(version > 1 for version in added["version"].to_pylist())
        facts = {
            "new": added.num_rows - changed,
            "changed": changed,
            "unchanged": len(same),
            "vanished": revisions.vanished(before, listing.plan),
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


def _retried(spec: ReadSpec, before: pa.Table, listing: Listing, reasons: Collection[str]) -> pa.Table:
    """The plan and, behind it, what was quarantined for one of ``reasons``; a begun retry goes on."""
    wanted = sorted(set(reasons))
    is_begun = ledger.last_growth(spec.folder).get("retry") == wanted
    if is_begun and ledger.missing_shards(spec.folder, before):
        return before
    failed = _failed(spec.folder, wanted)["instance_index"]
    plan = revisions.again(before, listing.plan, failed.combine_chunks(), listing.shard_size)
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
