"""The ledger of an output folder: shards committed whole, counted, and closed.

DIR/plan.parquet            every input, written first; it grows where a source is read again
DIR/shards/00042/           appears by one rename, with its tables and shard.json (counts, digests)
DIR/audit.jsonl             what was done, line by line (``engine.store.audit_log``)
DIR/manifest.json           written last; ``complete`` is true only then
DIR/.leases  DIR/.staging   who holds the folder, and what is being written (``engine.store.lease``)

``staging`` is that of the lease in all functions here: a step of a run that lost the folder raises
LeaseLostError and changes nothing. Without one, nobody else may write to the folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.errors import LedgerError, TableError
from engine.store import passed_over, revisions, schema
from engine.store.audit_log import Log
from engine.store.counts import COUNT_NAMES, PREDICTIONS, Counts, ended, sums, total
from engine.store.files import (
    MANIFEST_NAME,
    PRIVATE,
    now,
    read_json,
    replacing,
    sha256_of_facts,
    sha256_of_file,
    sync,
    write_json,
)
from engine.store.lease import STAGING, durable

PLAN_NAME = "plan.parquet"
AUDIT_HEAD = "audit_sha256"
"""Field of a finished manifest: digest of the last line of the audit log."""
REJECT_TABLES = ("filtered", "abstained", "quarantine", "grouped")
"""The last one is there only in shards that hold slices of series."""
_UNLEASED = "unleased"
_PARTS_AT_ONCE = 128


def begin(
    folder: Path, facts: Mapping[str, Any], staging: Path | None = None, *, is_moved: bool = False
) -> None:
    """Write the manifest of a job that starts, or accept the one it resumes.

    ``is_moved`` accepts another ``source``, for ``move`` to note.

    Raises:
        TableError: the folder was begun by another kind of job, with another configuration, or on another
            source.
    """
    path = folder / MANIFEST_NAME
    if path.exists():
        earlier = read_json(path)
        for name in ("kind", "config_sha256"):
            if earlier.get(name) != facts[name]:
                raise TableError(
                    f"{folder} was begun with another configuration ({name}): choose another --out"
                )
        if earlier.get("salt_check", facts.get("salt_check")) != facts.get("salt_check"):
            raise TableError(
                f"{folder} was begun under another salt, so its patients would get other keys: "
                "point OSTEORAY_SALT at the former one, or choose another --out"
            )
        if earlier.get("source") != facts.get("source") and not is_moved:
            raise TableError(
                f"{folder} was begun on the source {earlier.get('source')}: choose another --out, or give "
                "--moved where the same archive has another address now"
            )
        return
    _write_manifest(folder, {**facts, "started": now(), "complete": False}, staging)


def move(folder: Path, source: str, staging: Path | None = None) -> None:
    """Note that the source has another address now; the folder is incomplete until the run has closed it.

    Raises:
        TableError: there is no manifest.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("source") != source:
        moves = [*manifest.get("moves", []), {"at": now(), "from": manifest.get("source")}]
        facts = {**manifest, "source": source, "moves": moves, "complete": False}
        _write_manifest(folder, facts, staging)


def state(folder: Path, facts: Mapping[str, Any], staging: Path | None = None) -> None:
    """Write further ``facts`` into the manifest of a job that goes on.

    Raises:
        TableError: there is no manifest.
    """
    _write_manifest(folder, {**read_json(folder / MANIFEST_NAME), **facts}, staging)


def is_complete(folder: Path) -> bool:
    """Whether the manifest says that all is done.

    Raises:
        TableError: there is no manifest.
    """
    return bool(read_json(folder / MANIFEST_NAME)["complete"])


def close(
    folder: Path,
    plan: pa.Table,
    facts: Mapping[str, Any],
    staging: Path | None = None,
    log: Log | None = None,
) -> Counts:
    """Write the manifest of a finished job, last of all files; returns its counts.

    Raises:
        LedgerError: a shard is missing, or the rows are not as many as the plan's.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest["complete"]:
        return dict(manifest["counts"])
    counts = totals(folder, plan)
    for task, count in sums(counts).items():
        if count != counts["planned"]:
            of_task = f" for {task}" if task else ""
            raise LedgerError(f"{folder}: {count} of {counts['planned']} planned instances ended{of_task}")
    clear_staging(folder)
    digest = sha256_of_file(folder / PLAN_NAME)
    closed = {"counts": counts, "plan_sha256": digest, "finished": now(), "complete": True}
    manifest = {**manifest, **facts, **closed}
    if log:
        manifest[AUDIT_HEAD] = log.note(
            "finished", counts=counts, plan_sha256=digest, manifest_sha256=manifest_digest(manifest)
        )
    _write_manifest(folder, manifest, staging)
    return counts


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of all that a manifest says, but for the head of the audit log, which holds this digest."""
    return sha256_of_facts({name: fact for name, fact in manifest.items() if name != AUDIT_HEAD})


def write_plan(folder: Path, plan: pa.Table, staging: Path | None = None) -> pa.Table:
    """Write the plan, or find the same one there.

    Raises:
        TableError: the folder was begun on other inputs.
    """
    path = folder / PLAN_NAME
    if not path.exists():
        _replace_plan(path, plan, staging)
    elif not read_table(path).equals(plan):
        raise TableError(f"{folder} was begun on other inputs: choose another --out")
    return plan


def grow_plan(folder: Path, plan: pa.Table, facts: Mapping[str, Any], staging: Path | None = None) -> None:
    """Put a plan in the place of one that it begins with; the folder is incomplete again.

    ``facts`` of the growth join the manifest's ``growths``. Killed in between, the folder is as before but
    for its manifest, and the same growth can be done again.

    Raises:
        LedgerError: the plan does not begin with the present one.
    """
    before = read_plan(folder)
    if not plan.slice(0, before.num_rows).equals(before):
        raise LedgerError(f"{folder}: a plan may grow, never change")
    manifest = read_json(folder / MANIFEST_NAME)
    growths = [*manifest.get("growths", []), {"at": now(), "planned": plan.num_rows, **facts}]
    _write_manifest(folder, {**manifest, "complete": False, "growths": growths}, staging)
    _replace_plan(folder / PLAN_NAME, plan, staging)


def last_growth(folder: Path) -> dict[str, Any]:
    """Facts of the growth that gave the plan its present length; empty where it never grew.

    Raises:
        TableError: there is no manifest or plan.
    """
    growths = read_json(folder / MANIFEST_NAME).get("growths", [])
    planned = rows_planned(folder)
    return dict(growths[-1]) if growths and growths[-1].get("planned") == planned else {}


def quarantined(folder: Path, reasons: Collection[str] | None = None) -> pa.Table:
    """``instance_index`` and ``reason`` of the quarantined rows that count: of all reasons, or of some.

    Raises:
        TableError: there is no plan.
    """
    columns = pa.schema([("instance_index", pa.int64()), ("reason", pa.string())])
    parts = [read_table(path, columns.names).cast(columns) for path in tables_of(folder, "quarantine")]
    rows = pa.concat_tables([columns.empty_table(), *parts])
    rows = rows.filter(pc.invert(pc.is_in(rows["instance_index"], superseded(folder))))
    return rows if reasons is None else rows.filter(pc.is_in(rows["reason"], pa.array(reasons, pa.string())))


def digests(folder: Path) -> pa.Table:
    """``instance_index`` and ``content_sha256`` of each instance that ended; null where nothing was read."""
    paths = [path for table in COUNT_NAMES for path in tables_of(folder, table)]
    columns = pa.schema([("instance_index", pa.int64()), ("content_sha256", pa.string())])
    rows = pa.concat_tables(read_table(path, columns.names).cast(columns) for path in paths)
    return rows.group_by(columns.names).aggregate([])


def superseded(folder: Path) -> pa.Array:
    """``instance_index`` of the rows that a later version of the same member replaced; mostly none.

    Raises:
        TableError: there is no plan.
    """
    row_versions = read_table(folder / PLAN_NAME, ["version"])["version"]
    is_grown = pc.any(pc.greater(row_versions, 1)).as_py()
    return revisions.superseded(read_plan(folder)) if is_grown else pa.array([], pa.int64())


def _write_manifest(folder: Path, facts: Mapping[str, Any], staging: Path | None) -> None:
    with durable(staging):
        write_json(folder / MANIFEST_NAME, facts, staging, PRIVATE)


def _replace_plan(path: Path, plan: pa.Table, staging: Path | None) -> None:
    with durable(staging), replacing(path, staging, PRIVATE) as temporary:
        pq.write_table(plan.cast(passed_over.stamped(plan.schema)), temporary, compression="zstd")


def read_plan(folder: Path) -> pa.Table:
    """The plan of ``folder``.

    Raises:
        TableError: there is none.
    """
    return read_table(folder / PLAN_NAME)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet table, or some columns of it.

    Raises:
        TableError: absent, damaged, or without one of the columns.
    """
    table = read_present(path, columns)
    present = set(table.column_names)
    lacking = [name for name in columns or () if name not in present]
    if lacking:
        raise TableError(f"{path} has no column {lacking[0]}: it was written by another version, or damaged")
    return table if columns is None else table.select(columns)


def read_present(path: Path, columns: Collection[str] | None) -> pa.Table:
    """Those of the columns that one Parquet table has, or all, in its order.

    Raises:
        TableError: absent or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:  # a third of the time of ``pq.read_table``, which makes a data set
            _require_version(path, file.schema_arrow)
            names = file.schema_arrow.names
            wanted = names if columns is None else [name for name in names if name in columns]
            return file.read(wanted, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _require_version(path: Path, written: pa.Schema) -> None:
    """Refuse a table of an earlier release; tables that other tools wrote say no version.

    Raises:
        TableError: it is one.
    """
    version = (written.metadata or {}).get(b"osteoray.schema_version", schema.SCHEMA_VERSION.encode())
    if version.decode() != schema.SCHEMA_VERSION:
        raise TableError(
            f"{path} was written by an earlier release (schema version {version.decode()}): "
            "run the command again into a new folder"
        )


def packed(parts: Iterable[pa.Table], columns: pa.Schema) -> pa.Table:
    """Parts below each other in one chunk: thousands of small arrays would take twice their room."""
    ahead, groups = iter(parts), [columns.empty_table()]
    while group := list(islice(ahead, _PARTS_AT_ONCE)):
        groups.append(pa.concat_tables(group).unify_dictionaries().combine_chunks())
    return pa.concat_tables(groups).unify_dictionaries().combine_chunks()


def _damaged(path: Path, error: Exception) -> TableError:
    reason = str(error).partition("\n")[0]
    return TableError(f"{path} is absent or damaged: run `osteoray verify` on its folder ({reason})")


def rows_planned(folder: Path) -> int:
    """How many rows the plan has.

    Raises:
        TableError: there is none.
    """
    path = folder / PLAN_NAME
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a committed shard lies."""
    return folder / "shards" / f"{shard:05d}"


def missing_shards(folder: Path, plan: pa.Table) -> list[int]:
    """Shards of the plan that are not committed yet, ascending."""
    planned = range(plan["shard"][-1].as_py() + 1)
    return [shard for shard in planned if not (shard_folder(folder, shard) / "shard.json").exists()]


def commit_shard(
    folder: Path, shard: int, tables: Mapping[str, pa.Table], staging: Path | None = None
) -> dict[str, int]:
    """Write the tables of a shard and make them appear at once; returns rows by table, as they stand.

    A shard that is already there is kept: both were made from the same inputs, the first one counts.

    Raises:
        LeaseLostError: another run took the folder over; it will make the shard.
    """
    target = shard_folder(folder, shard)
    target.parent.mkdir(parents=True, exist_ok=True)
    if staging is None:
        (folder / STAGING / _UNLEASED).mkdir(parents=True, exist_ok=True)
    with durable(staging):
        return _commit_from(staging or folder / STAGING / _UNLEASED, target, shard, tables)


def _commit_from(root: Path, target: Path, shard: int, tables: Mapping[str, pa.Table]) -> dict[str, int]:
    staging = Path(tempfile.mkdtemp(prefix=f"{shard:05d}.", dir=root))
    rows = {name: table.num_rows for name, table in tables.items()}
    digests = {}
    for name, table in tables.items():
        path = staging / f"{name}.parquet"
        path.touch(PRIVATE)
        pq.write_table(table, path, compression="zstd")
        sync(path)
        digests[path.name] = sha256_of_file(path)
    facts = {"shard": shard, "rows": rows, "ended": ended(tables), "sha256": digests}
    write_json(staging / "shard.json", facts, mode=PRIVATE)
    sync(staging)
    try:
        staging.rename(target)
    except FileNotFoundError:
        raise
    except OSError:
        if not (target / "shard.json").exists():
            raise
        shutil.rmtree(staging)
        return dict(read_json(target / "shard.json")["rows"])
    sync(target.parent)
    return rows


def clear_staging(folder: Path) -> None:
    """Remove what was left half-written without a lease; what a lease leaves goes with the next one."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / STAGING / _UNLEASED)
    with suppress(OSError):
        (folder / STAGING).rmdir()


def totals(folder: Path, plan: pa.Table) -> Counts:
    """Instances that ended in all committed shards, from their shard.json."""
    shards = range(plan["shard"][-1].as_py() + 1)
    paths = [shard_folder(folder, shard) / "shard.json" for shard in shards]
    return total(plan.num_rows, (read_json(path)["ended"] for path in paths if path.exists()))


def tables_of(folder: Path, table: str) -> list[Path]:
    """Paths of one table's parts, in shard order; ``predictions`` are those of every task."""
    name = f"{table}-*" if table == PREDICTIONS else table
    return sorted((folder / "shards").glob(f"[0-9]*/{name}.parquet"))
