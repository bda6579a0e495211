"""The books of an output folder: shards committed whole, and the proof that every input ended once.

DIR/plan.parquet            every input, written first; it grows where a source is read again
DIR/shards/00042/           appears by one rename, with its tables and shard.json (counts, digests)
DIR/manifest.json           written last; ``complete`` is true only then
DIR/.lease                  held by flock while a job runs; the kernel drops it when the holder dies
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import schema, versions
from engine.errors import BooksError, LeaseHeldError, TableError
from engine.manifest import MANIFEST_NAME, now, read_json, replacing, sha256_of_file, sync, write_json

PLAN_NAME = "plan.parquet"
REJECT_TABLES = ("filtered", "quarantine")
COUNT_NAMES = {
    "samples": "samples",
    "predictions": "scored",
    "filtered": "filtered",
    "quarantine": "quarantined",
}
"""Table to the name of its row count in manifests and summaries."""


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a job that starts, or accept the one it resumes.

    Raises:
        TableError: the folder was begun by another kind of job or with another configuration.
    """
    path = folder / MANIFEST_NAME
    if path.exists():
        earlier = read_json(path)
        for name in ("kind", "config_sha256"):
            if earlier.get(name) != facts[name]:
                raise TableError(
                    f"{folder} was begun with another configuration ({name}): choose another --out"
                )
        return
    write_json(path, {**facts, "started": now(), "complete": False})


def close(folder: Path, plan: pa.Table, facts: Mapping[str, Any]) -> dict[str, int]:
    """Write the manifest of a finished job, last of all files; returns its counts.

    Raises:
        BooksError: a shard is missing, or the rows are not as many as the plan's.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest["complete"]:
        return dict(manifest["counts"])
    counts = totals(folder, plan)
    ended = sum(counts.values()) - counts["planned"]
    _require(ended == counts["planned"], f"{folder}: {ended} of {counts['planned']} planned instances ended")
    clear_staging(folder)
    digest = sha256_of_file(folder / PLAN_NAME)
    closed = {"counts": counts, "plan_sha256": digest, "finished": now(), "complete": True}
    write_json(folder / MANIFEST_NAME, {**manifest, **facts, **closed})
    return counts


@contextmanager
def lease(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process.

    Raises:
        LeaseHeldError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lease").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LeaseHeldError(
                f"another job is writing to {folder}: wait for it, or choose --out"
            ) from error
        yield


def write_plan(folder: Path, plan: pa.Table) -> None:
    """Write the plan; an earlier plan of the same inputs is left as it is.

    Raises:
        TableError: the folder was begun on other inputs.
    """
    path = folder / PLAN_NAME
    if path.exists():
        if not read_table(path).equals(plan):
            raise TableError(
                f"{folder} was begun on other inputs or another shard size: "
                "give --incremental to take in what is new or changed, or choose another --out"
            )
        return
    _replace_plan(path, plan)


def grow_plan(folder: Path, plan: pa.Table, facts: Mapping[str, Any]) -> None:
    """Put a plan in the place of one that it begins with; the folder is incomplete again.

    ``facts`` of the growth join the manifest's ``growths``. Killed in between, the folder is as before but
    for its manifest, and the same growth can be done again.

    Raises:
        BooksError: the plan does not begin with the present one.
    """
    before = read_plan(folder)
    _require(plan.slice(0, before.num_rows).equals(before), f"{folder}: a plan may grow, never change")
    manifest = read_json(folder / MANIFEST_NAME)
    growths = [*manifest.get("growths", []), {"at": now(), **facts}]
    write_json(folder / MANIFEST_NAME, {**manifest, "complete": False, "growths": growths})
    _replace_plan(folder / PLAN_NAME, plan)


def digests(folder: Path) -> pa.Table:
    """``instance_index`` and ``content_sha256`` of every row that ended; null where no bytes were read."""
    paths = [path for table in COUNT_NAMES for path in tables_of(folder, table)]
    columns = pa.schema([("instance_index", pa.int64()), ("content_sha256", pa.string())])
    return pa.concat_tables(pq.read_table(path, columns=columns.names).cast(columns) for path in paths)


def superseded(folder: Path) -> pa.Array:
    """``instance_index`` of the rows that a later version of the same member replaced; mostly none.

    Raises:
        TableError: there is no plan.
    """
    plan = read_plan(folder)
    is_grown = pc.any(pc.greater(plan["version"], 1)).as_py()
    return versions.superseded(plan) if is_grown else pa.array([], pa.int64())


def _replace_plan(path: Path, plan: pa.Table) -> None:
    with replacing(path) as temporary:
        pq.write_table(plan.cast(schema.stamped(schema.PLAN, "plan")), temporary, compression="zstd")


def read_plan(folder: Path) -> pa.Table:
    """The plan of ``folder``.

    Raises:
        TableError: there is none.
    """
    return read_table(folder / PLAN_NAME)


def read_table(path: Path) -> pa.Table:
    """One Parquet table.

    Raises:
        TableError: absent or damaged.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} is absent or damaged: run `osteoray verify` on its folder") from error


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a committed shard lies."""
    return folder / "shards" / f"{shard:05d}"


def missing_shards(folder: Path, plan: pa.Table) -> list[int]:
    """Shards of the plan that are not committed yet, ascending."""
    planned = range(plan["shard"][-1].as_py() + 1)
    return [shard for shard in planned if not (shard_folder(folder, shard) / "shard.json").exists()]


def commit_shard(folder: Path, shard: int, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    """Write the tables of a shard and make them appear at once; returns rows by table, as they stand.

    A shard that is already there is kept: both were made from the same inputs, the first one counts.
    """
    target = shard_folder(folder, shard)
    staging_root = folder / ".staging"
    staging_root.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{shard:05d}.", dir=staging_root))
    counts = {name: table.num_rows for name, table in tables.items()}
    digests = {}
    for name, table in tables.items():
        path = staging / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd")
        sync(path)
        digests[path.name] = sha256_of_file(path)
    write_json(staging / "shard.json", {"shard": shard, "rows": counts, "sha256": digests})
    sync(staging)
    staging.chmod(0o755)
    try:
        staging.rename(target)
    except OSError:
        if not (target / "shard.json").exists():
            raise
        shutil.rmtree(staging)
        return dict(read_json(target / "shard.json")["rows"])
    sync(target.parent)
    return counts


def clear_staging(folder: Path) -> None:
    """Remove what a killed run left half-written. Call it under the lease, with no worker running."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / ".staging")


def totals(folder: Path, plan: pa.Table) -> dict[str, int]:
    """Rows by table over all committed shards, from their shard.json, named as in COUNT_NAMES."""
    counts: Counter[str] = Counter(planned=plan.num_rows)
    for shard in range(plan["shard"][-1].as_py() + 1):
        path = shard_folder(folder, shard) / "shard.json"
        if path.exists():
            counts.update(_named(read_json(path)["rows"]))
    return dict(counts)


def tables_of(folder: Path, table: str) -> list[Path]:
    """Paths of one table's parts, in shard order."""
    return sorted((folder / "shards").glob(f"[0-9]*/{table}.parquet"))


def verify(folder: Path) -> dict[str, Any]:
    """Prove from the files alone that every planned input ended exactly once, undamaged.

    Returns the counts. Reads every file of the folder.

    Raises:
        BooksError: names the first contradiction found.
        TableError: no manifest or plan, or a table that cannot be read.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    plan = read_plan(folder)
    _require(
        bool(manifest.get("complete")), f"{folder} is not complete: run the same command again to resume"
    )
    digest = sha256_of_file(folder / PLAN_NAME)
    _require(manifest.get("plan_sha256", digest) == digest, f"{folder / PLAN_NAME} was changed or damaged")
    planned_by_shard: dict[int, set[int]] = {}
    for index, shard in zip(plan["instance_index"].to_pylist(), plan["shard"].to_pylist(), strict=True):
        planned_by_shard.setdefault(shard, set()).add(index)
    counts: Counter[str] = Counter(planned=plan.num_rows)
    for shard, planned in planned_by_shard.items():
        counts.update(_verify_shard(shard_folder(folder, shard), planned))
    extra = len(list((folder / "shards").iterdir())) - len(planned_by_shard)
    _require(extra == 0, f"{folder}/shards holds {extra} entries that the plan does not know")
    stated = manifest.get("counts", {})
    _require(stated == dict(counts), f"the manifest states {stated}, the tables hold {dict(counts)}")
    return dict(counts)


def _verify_shard(folder: Path, planned: set[int]) -> Counter[str]:
    rows, digests = _stated(folder / "shard.json")
    present = {entry.name for entry in os.scandir(folder)} - {"shard.json"}
    _require(present == set(digests), f"{folder} holds other files than its shard.json names")
    ended: Counter[int] = Counter()
    for table, count in rows.items():
        path = folder / f"{table}.parquet"
        _require(sha256_of_file(path) == digests[path.name], f"{path} was changed or damaged")
        content = read_table(path)
        _require("instance_index" in content.column_names, f"{path} has no column instance_index")
        _require(content.num_rows == count, f"{path} has another row count than stated")
        ended.update(content["instance_index"].to_pylist())
    doubled = sum(1 for count in ended.values() if count > 1)
    _require(doubled == 0, f"{folder}: {doubled} instance(s) ended twice")
    _require(
        set(ended) <= planned, f"{folder}: {len(set(ended) - planned)} row(s) of instances never planned here"
    )
    _require(set(ended) == planned, f"{folder}: {len(planned - set(ended))} planned instance(s) have no row")
    return Counter(_named(rows))


def _stated(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Rows by table and digests by file name, as a shard.json states them."""
    facts = read_json(path)
    rows, digests = facts.get("rows"), facts.get("sha256")
    if not isinstance(rows, dict) or not isinstance(digests, dict):
        raise BooksError(f"{path} states no rows or no digests")
    if not set(rows) <= set(COUNT_NAMES) or set(digests) != {f"{name}.parquet" for name in rows}:
        raise BooksError(f"{path} states other tables than a shard has")
    return rows, digests


def _named(rows: Mapping[str, int]) -> dict[str, int]:
    return {COUNT_NAMES[table]: count for table, count in rows.items()}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BooksError(message)
