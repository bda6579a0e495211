"""What was scored before, found by the digest of its bytes: the earlier row is taken, nothing is decoded.

An index of earlier predictions lies in a folder of its own, for as long as a run lasts:

    keys.npy      first 64 bits of each digest, ascending, unsigned
    places.npy    the whole digest, and where the row is: folder, shard and row of the shard's predictions
    folders.json  the folders

A task looks up a digest by bisection in the mapped file, so the memory of a reader does not grow with the
archive. Only rows of the same model, engine, patients' keys and code are taken: they would come out the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine import books
from engine.errors import AlreadyScoredError, BooksError, UsageError
from engine.manifest import MANIFEST_NAME, code_version, read_json, write_json

_PLACE = np.dtype([("digest", "V32"), ("folder", "u2"), ("shard", "u4"), ("row", "u4")])
_PLACED = ("instance_index", "path", "shard", "version")
_OPEN_TABLES = 4


def require_same(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a folder whose rows could differ from what a run with the manifest ``facts`` would make.

    Raises:
        UsageError: it is no score folder, or of another model, engine or salt.
        TableError: it has no manifest.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != "score":
        raise UsageError(f"{folder} is no folder of `osteoray score`: there is nothing to reuse")
    was, now = _what_decides(manifest), _what_decides(facts)
    differing = [name for name in now if was[name] != now[name]]
    if differing:
        raise UsageError(
            f"{folder} was scored with another {' and '.join(differing)}: its rows cannot be reused"
        )


def write_index(index: Path, folders: Sequence[Path]) -> int:
    """Write the index of the predictions in ``folders`` to the new folder ``index``; returns its rows."""
    index.mkdir()
    parts = [part for number, folder in enumerate(folders) for part in _places(folder, number)]
    places_N = np.concatenate([np.zeros(0, _PLACE), *parts])
    keys_N = _keys(places_N["digest"])
    order_N = np.argsort(keys_N, kind="stable")
    np.save(index / "keys.npy", keys_N[order_N])
    np.save(index / "places.npy", places_N[order_N])
    write_json(index / "folders.json", {"folders": [str(folder.resolve()) for folder in folders]})
    return len(places_N)


def require_unknown(index: Path, digest: str) -> None:
    """Return where no bytes of this digest were scored before.

    Raises:
        AlreadyScoredError: they were.
    """
    if _find(index, digest) is not None:
        error = AlreadyScoredError("the same bytes were scored before")
        error.content_sha256 = digest
        raise error


def rows(index: Path, wanted: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The earlier predictions of ``wanted``: each its place in this plan, and ``content_sha256``.

    The columns are those of ``schema.predictions``; place and path are the wanted ones.

    Raises:
        BooksError: a row is not where the index says.
        TableError: a table of an earlier folder cannot be read.
    """
    folders = read_json(index / "folders.json")["folders"]
    taken = []
    for one in wanted:
        place = _find(index, one["content_sha256"])
        table = _predictions(folders[place["folder"]], int(place["shard"])) if place is not None else None
        row = table.slice(int(place["row"]), 1) if table is not None and place is not None else None
        if row is None or row["content_sha256"].to_pylist() != [one["content_sha256"]]:
            raise BooksError("an earlier prediction is not where it was: run `osteoray verify` on its folder")
        for name in _PLACED:
            field = row.schema.field(name)
            row = row.set_column(row.schema.get_field_index(name), field, [pa.array([one[name]], field.type)])
        taken.append(row)
    return pa.concat_tables(taken).combine_chunks()


def _what_decides(manifest: Mapping[str, Any]) -> dict[str, Any]:
    config = manifest.get("config", {})
    return {
        "model": config.get("model_sha256"),
        "engine": config.get("engine"),
        "salt": manifest.get("salt_check"),
    }


def _places(folder: Path, number: int) -> Iterator[NDArray[Any]]:
    for path in books.tables_of(folder, "predictions"):
        table = pq.read_table(path, columns=["content_sha256", "code_version", "shard"])
        if not table.num_rows:
            continue
        places_N = np.zeros(table.num_rows, _PLACE)
        digests = b"".join(bytes.fromhex(digest) for digest in table["content_sha256"].to_pylist())
        places_N["digest"] = np.frombuffer(digests, "V32")
        places_N["folder"], places_N["shard"] = number, int(path.parent.name)
        places_N["row"] = np.arange(table.num_rows)
        yield places_N[np.array(table["code_version"].to_pylist()) == code_version()]


def _keys(digest_N: NDArray[Any]) -> NDArray[np.uint64]:
    """The first eight bytes of each digest as one number."""
    bytes_N32 = np.frombuffer(np.ascontiguousarray(digest_N).tobytes(), np.uint8).reshape(-1, 32)
    keys_N: NDArray[np.uint64] = (
        np.ascontiguousarray(bytes_N32[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    )
    return keys_N


def _find(index: Path, digest: str) -> Any:
    """The place of a digest, None where it has none."""
    keys_N, places_N = _mapped(index)
    raw = bytes.fromhex(digest)
    key = np.uint64(int.from_bytes(raw[:8], "big"))
    at = int(np.searchsorted(keys_N, key))
    while at < len(keys_N) and keys_N[at] == key:
        if places_N[at]["digest"].tobytes() == raw:
            return places_N[at]
        at += 1
    return None


@functools.lru_cache(maxsize=1)
def _mapped(index: Path) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    return np.load(index / "keys.npy", mmap_mode="r"), np.load(index / "places.npy", mmap_mode="r")


@functools.lru_cache(maxsize=_OPEN_TABLES)
def _predictions(folder: str, shard: int) -> pa.Table:
    return books.read_table(books.shard_folder(Path(folder), shard) / "predictions.parquet")
