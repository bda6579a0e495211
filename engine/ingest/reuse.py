"""What was scored before, found by the digest of its bytes: the earlier row is taken, nothing is decoded.

A withheld score is as good as a told one: its row is taken with its reason.

An index of earlier rows lies in a folder of its own, for as long as a run lasts:

    keys.npy      first 64 bits of each digest, ascending, unsigned
    places.npy    the whole digest, the model, and where the row is: table, folder, shard, row of the table
    index.json    the folders, and the tasks of this run's models

A task looks up a digest by bisection in the mapped file, so the memory of a reader does not grow with the
archive. Only rows of the same model, engine, patients' keys and code are taken: they would come out the same.
A run with several models takes a row for the bytes that it would give to that very model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import LedgerError, UsageError
from engine.store import ledger
from engine.store.counts import PREDICTIONS, kind_of, predictions_of
from engine.store.files import MANIFEST_NAME, code_version, read_json, write_json

TABLES = {PREDICTIONS: "reused", "abstained": "reused_abstained"}
"""The tables whose rows are taken, and what such rows are called until they are in this run's."""
OF_A_RUN = ("foreign_archive",)
"""Reasons that a whole run has, not its film: rows that no other run takes."""

_PLACE = np.dtype(
    [("digest", "V32"), ("model", "u2"), ("table", "u1"), ("folder", "u2"), ("shard", "u4"), ("row", "u4")]
)
_PLACED = ("instance_index", "path", "shard", "version", "route")
_READ = ("content_sha256", "model_sha256", "code_version")
_OPEN_TABLES = 4


def require_same(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder whose rows could differ from what a run with the manifest ``facts`` would make.

    Raises:
        UsageError: it is no score folder, has no model in common, or is of another engine, salt or covariate
            table.
        TableError: it has no manifest.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != "score":
        raise UsageError(f"{folder} is no folder of `osteoray score`: there is nothing to reuse")
    old, new = manifest.get("config", {}), facts.get("config", {})
    was, now = (
        {model["model_sha256"]: model["engine"] for model in one.get("models", [])} for one in (old, new)
    )
    common = was.keys() & now.keys()
    differs = {
        "model": not common,
        "engine": any(was[model] != now[model] for model in common),
        "salt": manifest.get("salt_check") != facts.get("salt_check"),
        "covariate table": old.get("covariates_sha256") != new.get("covariates_sha256"),
    }
    differing = [name for name, differ in differs.items() if differ]
    if differing:
        raise UsageError(
            f"{folder} was scored with another {' and '.join(differing)}: its rows cannot be reused"
        )


def write_index(index: Path, folders: Sequence[Path], models: Mapping[str, str]) -> int:
    """Write the index of the rows in ``folders`` to the new folder ``index``; returns its rows.

    ``models`` holds the digests of this run's models, in their order, and the task of each.
    """
    index.mkdir()
    parts = [part for number, folder in enumerate(folders) for part in _places(folder, number, models)]
    places_N = np.concatenate([np.zeros(0, _PLACE), *parts])
    keys_N = _keys(places_N["digest"])
    order_N = np.argsort(keys_N, kind="stable")
    np.save(index / "keys.npy", keys_N[order_N])
    np.save(index / "places.npy", places_N[order_N])
    facts = {"folders": [str(folder.resolve()) for folder in folders], "tasks": list(models.values())}
    write_json(index / "index.json", facts)
    return len(places_N)


def reused(table: str) -> str:
    """What rows that are taken from this table of an earlier folder are called."""
    return TABLES[kind_of(table)]


def is_known(index: Path, digest: str, model: int = 0) -> bool:
    """Whether bytes of this digest were scored before by ``model``, its place in the order of this run."""
    return _find(index, digest, model) is not None


def rows(index: Path, wanted: Iterable[Mapping[str, Any]]) -> dict[str, pa.Table]:
    """The earlier rows of ``wanted``, by table. Each one wanted says its place, ``content_sha256`` and route.

    The columns are those of the table and ``rule``; place, path and route are the wanted ones. A table of
    predictions is that of one task.

    Raises:
        LedgerError: a row is not where the index says.
        TableError: a table of an earlier folder cannot be read.
    """
    facts = read_json(index / "index.json")
    taken: dict[str, list[pa.Table]] = {}
    for one in wanted:
        name, row = _row(index, facts, one)
        row = _placed(row, one).append_column("rule", pa.array([one["rule"]], pa.int32()))
        taken.setdefault(name, []).append(row)
    return {name: pa.concat_tables(some).combine_chunks() for name, some in taken.items()}


def _row(index: Path, facts: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[str, pa.Table]:
    """The table in which an earlier row stands, and the row."""
    place = _find(index, one["content_sha256"], one["rule"])
    if place is not None:
        kind = list(TABLES)[place["table"]]
        name = predictions_of(facts["tasks"][one["rule"]]) if kind == PREDICTIONS else kind
        row = _table(facts["folders"][place["folder"]], int(place["shard"]), name).slice(int(place["row"]), 1)
        if row["content_sha256"].to_pylist() == [one["content_sha256"]]:
            return name, row
    raise LedgerError("an earlier row is not where it was: run `osteoray verify` on its folder")


def _placed(row: pa.Table, one: Mapping[str, Any]) -> pa.Table:
    for name in _PLACED:
        if name in row.column_names:
            field = row.schema.field(name)
            row = row.set_column(row.schema.get_field_index(name), field, [pa.array([one[name]], field.type)])
    return row


def _places(folder: Path, number: int, models: Mapping[str, str]) -> Iterator[NDArray[Any]]:
    """Where the rows lie that this run may take: those of its models, made by this code."""
    place_of = {model: place for place, model in enumerate(models)}
    paths = [(kind, path) for kind, name in enumerate(TABLES) for path in ledger.tables_of(folder, name)]
    for kind, path in paths:
        has_reason = TABLES.get(kind_of(path.stem)) == TABLES["abstained"]
        table = ledger.read_table(path, (*_READ, "reason") if has_reason else _READ)
        places_N = np.zeros(table.num_rows, _PLACE)
        digests = b"".join(bytes.fromhex(digest) for digest in table["content_sha256"].to_pylist())
        places_N["digest"] = np.frombuffer(digests, "V32")
        made_by = table["model_sha256"].to_pylist()
        places_N["model"] = [place_of.get(model, 0) for model in made_by]
        places_N["table"] = kind
        places_N["folder"], places_N["shard"] = number, int(path.parent.name)
        places_N["row"] = np.arange(table.num_rows)
        is_taken_N = np.array([model in place_of for model in made_by], bool)
        is_same_N = np.array([code == code_version() for code in table["code_version"].to_pylist()], bool)
        if has_reason:
            is_taken_N &= ~np.isin(table["reason"].to_numpy(), OF_A_RUN)
        yield places_N[is_taken_N & is_same_N]


def _keys(digest_N: NDArray[Any]) -> NDArray[np.uint64]:
    """The first eight bytes of each digest as one number."""
    bytes_N32 = np.frombuffer(np.ascontiguousarray(digest_N).tobytes(), np.uint8).reshape(-1, 32)
    return np.ascontiguousarray(bytes_N32[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def _find(index: Path, digest: str, model: int) -> Any:
    """The place of a digest that ``model`` scored, None where it has none."""
    keys_N, places_N = _mapped(index)
    raw = bytes.fromhex(digest)
    key = np.uint64(int.from_bytes(raw[:8], "big"))
    at = int(np.searchsorted(keys_N, key))
    while at < len(keys_N) and keys_N[at] == key:
        if places_N[at]["model"] == model and places_N[at]["digest"].tobytes() == raw:
            return places_N[at]
        at += 1
    return None


@functools.lru_cache(maxsize=1)
def _mapped(index: Path) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    return np.load(index / "keys.npy", mmap_mode="r"), np.load(index / "places.npy", mmap_mode="r")


@functools.lru_cache(maxsize=_OPEN_TABLES)
def _table(folder: str, shard: int, name: str) -> pa.Table:
    return ledger.read_table(ledger.shard_folder(Path(folder), shard) / f"{name}.parquet")
