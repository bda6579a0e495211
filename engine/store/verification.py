"""The proof, from the files alone, that every planned input of a folder ended exactly once, undamaged."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.errors import LedgerError
from engine.store import audit_log, ledger
from engine.store.counts import COUNT_NAMES, PREDICTIONS, Counts, ended, kind_of, of_task, tasks_of, total
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_file
from engine.store.lease import CLAIMS, STAGING

OURS = frozenset({MANIFEST_NAME, ledger.PLAN_NAME, audit_log.AUDIT_NAME, "shards", CLAIMS, STAGING})
"""What a run itself writes into an output folder."""
JOINED = "views"
"""What the manifest of a folder of `join` has: it was made from finished folders, and keeps no log."""
BESIDE = frozenset({"deidentified", "outbox", "report.html", "results"})
"""What other verbs put beside it by default; it is theirs to check."""


def verify(folder: Path, audit_head: str | None = None) -> Counts:
    """Prove that the ledger of ``folder`` balance; returns the counts. Reads every file of the folder.

    ``audit_head`` is the digest that the run showed when it ended, where somebody kept it.

    Raises:
        LedgerError: names the first contradiction found.
        TableError: no manifest or plan, or a table that cannot be read.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    plan = ledger.read_plan(folder)
    require(bool(manifest.get("complete")), f"{folder} is not complete: run the same command again to resume")
    digest = sha256_of_file(folder / ledger.PLAN_NAME)
    require(manifest.get("plan_sha256") == digest, f"{folder / ledger.PLAN_NAME} was changed or damaged")
    _verify_plan(folder, plan)
    planned_by_shard: dict[int, set[int]] = {}
    for index, shard in zip(plan["instance_index"].to_pylist(), plan["shard"].to_pylist(), strict=True):
        planned_by_shard.setdefault(shard, set()).add(index)
    parts = [
        _verify_shard(ledger.shard_folder(folder, shard), planned)
        for shard, planned in planned_by_shard.items()
    ]
    counts = total(plan.num_rows, parts)
    _verify_provenance(folder, manifest)
    _verify_names(folder, planned_by_shard)
    stated = manifest.get("counts", {})
    require(stated == counts, f"the manifest states {stated}, the tables hold {counts}")
    _verify_audit(folder, manifest, planned_by_shard, audit_head)
    return counts


def _verify_plan(folder: Path, plan: pa.Table) -> None:
    """Indices count from 0, shards ascend without a gap, and the versions of each path count from 1."""
    indices, shards = plan["instance_index"].to_pylist(), plan["shard"].to_pylist()
    is_sound = indices == list(range(len(indices))) and all(
        later - earlier in {0, 1} for earlier, later in zip([0, *shards], shards, strict=False)
    )
    seen: Counter[str] = Counter()
    for path, version in zip(plan["path"].to_pylist(), plan["version"].to_pylist(), strict=True):
        seen[path] += 1
        is_sound = is_sound and seen[path] == version
    require(
        is_sound, f"{folder / ledger.PLAN_NAME} does not count its rows, shards or versions as a plan does"
    )


def _verify_names(folder: Path, shards: Iterable[int]) -> None:
    here = {entry.name for entry in os.scandir(folder)}
    _nothing_foreign(folder, here - OURS - BESIDE)
    known = {ledger.shard_folder(folder, shard).name for shard in shards}
    _nothing_foreign(folder / "shards", {entry.name for entry in os.scandir(folder / "shards")} - known)


def _nothing_foreign(folder: Path, foreign: set[str]) -> None:
    require(
        not foreign,
        f"{folder} holds {len(foreign)} entries that no run of osteoray wrote, such as "
        f"{min(foreign, default='')}: move them away",
    )


def _verify_shard(folder: Path, planned: set[int]) -> Counts:
    rows, digests, stated = _stated(folder / "shard.json")
    present = {entry.name for entry in os.scandir(folder)} - {"shard.json"}
    require(present == set(digests), f"{folder} holds other files than its shard.json names")
    tables: dict[str, pa.Table] = {}
    for table, count in rows.items():
        path = folder / f"{table}.parquet"
        require(sha256_of_file(path) == digests[path.name], f"{path} was changed or damaged")
        tables[table] = ledger.read_table(path)
        require("instance_index" in tables[table].column_names, f"{path} has no column instance_index")
        require(tables[table].num_rows == count, f"{path} has another row count than stated")
    tasks: list[str] = tasks_of(tables)
    _verify_tasks(folder, tables, tasks)
    for task in tasks or (None,):
        _verify_ends(folder, [of_task(name, table, task) for name, table in tables.items()], planned)
    counts = ended(tables)
    require(counts == stated, f"{folder} states other counts than its tables hold")
    return counts


def _verify_tasks(folder: Path, tables: Mapping[str, pa.Table], tasks: Sequence[str]) -> None:
    """No row names a task that the shard has no predictions of."""
    for name, table in tables.items():
        named = set(table["task"].to_pylist()) - {None} if "task" in table.column_names else set()
        own = {name.partition("-")[2]} if kind_of(name) == PREDICTIONS else set(tasks)
        require(named <= own, f"{folder / name}.parquet has rows of another task")


def _verify_ends(folder: Path, tables: Iterable[pa.Table], planned: set[int]) -> None:
    """Each planned instance has one row in these tables, and no other instance has one."""
    ends = Counter(index for table in tables for index in table["instance_index"].to_pylist())
    doubled = sum(1 for count in ends.values() if count > 1)
    require(doubled == 0, f"{folder}: {doubled} instance(s) ended twice")
    require(
        set(ends) <= planned, f"{folder}: {len(set(ends) - planned)} row(s) of instances never planned here"
    )
    require(set(ends) == planned, f"{folder}: {len(planned - set(ends))} planned instance(s) have no row")


def _stated(path: Path) -> tuple[dict[str, int], dict[str, str], Counts]:
    """Rows by table, digests by file name, and counts, as a shard.json states them."""
    facts = read_json(path)
    rows, digests = facts.get("rows"), facts.get("sha256")
    if not isinstance(rows, dict) or not isinstance(digests, dict):
        raise LedgerError(f"{path} states no rows or no digests")
    if not {kind_of(name) for name in rows} <= set(COUNT_NAMES) or set(digests) != {
        f"{name}.parquet" for name in rows
    }:
        raise LedgerError(f"{path} states other tables than a shard has")
    return rows, digests, facts.get("ended", {})


def _verify_provenance(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Each scored or withheld row is of a model that the manifest names for its task, and of known code.

    Code may be newer than the manifest where a later release went on: the audit log has each start.
    """
    models = {(model["task"]["name"], model["model_sha256"]) for model in manifest.get("models", [])}
    chosen = {model["model_sha256"] for model in manifest.get("config", {}).get("models", [])}
    require({digest for _, digest in models} == chosen, f"{folder / MANIFEST_NAME} names models of two kinds")
    codes = {manifest.get("code_version"), *(line.get("code_version") for line in audit_log.read(folder))}
    for path in (path for kind in (PREDICTIONS, "abstained") for path in ledger.tables_of(folder, kind)):
        rows = ledger.read_table(path, ("task", "model_sha256", "code_version"))
        for row in rows.group_by(rows.column_names).aggregate([]).to_pylist():
            require(
                (row["task"], row["model_sha256"]) in models,
                f"{path} has rows of a model that {MANIFEST_NAME} does not name: the bundle was exchanged "
                "during the run; score into another --out",
            )
            require(
                row["code_version"] in codes, f"{path} has rows of a release that no start of this run had"
            )


def _verify_audit(
    folder: Path, manifest: Mapping[str, Any], shards: Iterable[int], audit_head: str | None
) -> None:
    """The chain is whole, ends where the manifest says, and tells of each shard and of the manifest."""
    lines = list(audit_log.read(folder))
    head = manifest.get(ledger.AUDIT_HEAD)
    if (
        JOINED in manifest and head is None and not lines and audit_head is None
    ):  # made by no run over an archive
        return
    require(
        head is not None,
        f"{folder / MANIFEST_NAME} states no digest of the audit log, which every run writes: it was removed",
    )
    found = lines[-1] if lines else {}
    require(
        found.get("sha256") == head and audit_head in {None, head},
        f"{folder / audit_log.AUDIT_NAME} does not end with the line that is stated: some are gone or new",
    )
    require(
        found.get("manifest_sha256") == ledger.manifest_digest(manifest),
        f"{folder / MANIFEST_NAME} is not the one that the audit log tells of: it was changed",
    )
    told = Counter(line["shard"] for line in lines if line["event"] in audit_log.SHARD_EVENTS)
    digests = {
        line["shard"]: line["sha256_shard"] for line in lines if line["event"] in audit_log.SHARD_EVENTS
    }
    for shard in shards:
        path = ledger.shard_folder(folder, shard) / "shard.json"
        require(
            told[shard] == 1 and digests[shard] == sha256_of_file(path),
            f"{path} is not the one that the audit log tells of: it was changed, or made twice",
        )


def require(holds: bool, message: str) -> None:
    """Raise LedgerError with ``message`` unless it ``holds``."""
    if not holds:
        raise LedgerError(message)
