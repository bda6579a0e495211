"""The teacher cache: a teacher's outputs for every sample, computed once and then only looked up.

    CACHE/shards/00042.arrow    some samples, an uncompressed Arrow file: mapped into memory, read in place
    CACHE/manifest.json         teachers, view, outputs, digests; begun first, completed last

A row is keyed by its SOP instance UID; the digests of the teachers' weights and of the view they saw stand in
the manifest and in the metadata of every shard. Spatial outputs lie on the view that the teacher saw:
``original_to_network`` says where that is. OUTPUTS says what can be recorded, and in which form.
Legend: N samples, B batch, K bins, C channels, h, w trunk grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import TeacherCacheError
from engine.store import schema
from engine.store.files import (
    MANIFEST_NAME,
    now,
    read_json,
    replacing,
    sha256_of_facts,
    sha256_of_file,
    write_json,
)

OUTPUTS: dict[str, str] = {
    "logits": "[K] float32; of several teachers or passes the log of their mean distribution",
    "embedding": "[C] float16, the spatial mean of the deepest maps",
    "attention": "[h, w] uint8, scaled to 255",
    "dense": "[K, h, w] float16, class maps without bias, signed",
    "features": "[C, h, w] float16, the trunk maps of each tap",
}
"""What can be recorded, and its form for one sample."""
SPATIAL = frozenset({"attention", "dense", "features"})
KIND = "record-teacher"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Which samples a shard holds, in the order of its rows; matrices original -> network pixel [N, 9]."""

    uids: list[str]
    contents: list[str]
    to_network_N9: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A finished cache, mapped into memory; a *place* is the number of a sample in it."""

    folder: Path
    facts: dict[str, Any]
    place_of: Mapping[str, int]
    contents_N: list[str]
    to_network_N33: NDArray[np.float64]
    starts_S: NDArray[np.int64]
    """First place of each shard."""
    columns: Mapping[str, list[NDArray[Any]]]
    """By column, one array a shard."""

    @property
    def sha256(self) -> str:
        """Digest of all that it holds."""
        return sha256_of_facts([self.facts["config_sha256"], *self.facts["shards"]])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names in OUTPUTS."""
        return tuple(self.facts["outputs"])

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the recorded features, a number a tap; empty where none are."""
        return tuple(self.facts["channels"]) if "features" in self.outputs else ()

    @property
    def size_HW(self) -> tuple[int, int]:
        """Rows and columns of the view that the teacher saw."""
        height, width = self.facts["rule"]["view"]["size_HW"]
        return height, width

    def places(self, uids: Sequence[str]) -> NDArray[np.int64]:
        """The places of some samples.

        Raises:
            TeacherCacheError: the cache knows nothing of one.
        """
        found = [self.place_of.get(uid, -1) for uid in uids]
        missing = found.count(-1)
        if missing:
            raise TeacherCacheError(
                f"{self.folder} lacks {missing} of {len(found)} samples: "
                "run `osteoray record-teacher` on all data"
            )
        return np.array(found, np.int64)

    def read(self, column: str, places_B: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a column, copied from disk."""
        parts = self.columns[column]
        shards_B = np.searchsorted(self.starts_S, places_B, side="right") - 1
        rows = [parts[s][p - self.starts_S[s]] for s, p in zip(shards_B, places_B, strict=True)]
        return np.stack(rows) if rows else parts[0][:0]


def is_cache(folder: Path) -> bool:
    """Whether the folder was begun by `osteoray record-teacher`."""
    return (folder / MANIFEST_NAME).exists() and read_json(folder / MANIFEST_NAME).get("kind") == KIND


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / "shards" / f"{shard:05d}.arrow"


def missing_shards(folder: Path, count: int) -> list[int]:
    """Which of ``count`` shards are not written yet."""
    return [shard for shard in range(count) if not shard_path(folder, shard).exists()]


def write_shard(folder: Path, shard: int, keys: Keys, arrays: Arrays, stamp: Mapping[str, str]) -> None:
    """Write a shard, which appears whole or not at all; ``stamp`` is what ``digests`` gives."""
    matrices = [row.tolist() for row in keys.to_network_N9]
    columns = {
        "sop_instance_uid": pa.array(keys.uids, pa.string()),
        "content_sha256": pa.array(keys.contents, pa.string()),
        "original_to_network": pa.array(matrices, pa.list_(pa.float64(), 9)),
        **{name: schema.tensor_column(values) for name, values in arrays.items()},
    }
    table = pa.table(columns)
    table = table.cast(schema.stamped(table.schema, "recorded", stamp))
    with (
        replacing(shard_path(folder, shard)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=max(table.num_rows, 1))


def digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """What every shard of a cache holds about its origin."""
    return {
        "osteoray.teachers": ",".join(teacher["sha256"] for teacher in facts["teachers"]),
        "osteoray.view_sha256": facts["view_sha256"],
    }


def close(folder: Path, count: int) -> dict[str, int]:
    """Complete the manifest of a cache whose shards are all written; returns its counts.

    Raises:
        TeacherCacheError: a shard is missing or of another teacher.
    """
    facts = read_json(folder / MANIFEST_NAME)
    if facts["complete"]:
        return dict(facts["counts"])
    shards = []
    for shard in range(count):
        path = shard_path(folder, shard)
        shards.append({"rows": _opened(path, digests(facts)).num_rows, "sha256": sha256_of_file(path)})
    counts = {"recorded": sum(shard["rows"] for shard in shards)}
    closed = {"shards": shards, "counts": counts, "finished": now(), "complete": True}
    write_json(folder / MANIFEST_NAME, {**facts, **closed})
    return counts


def open_cache(folder: Path) -> TeacherCache:
    """Map a finished cache into memory.

    Raises:
        TableError: the folder is none, or not finished.
        TeacherCacheError: a shard is missing, of other teachers, or has another number of rows.
    """
    facts = read_json(folder / MANIFEST_NAME)
    if facts.get("kind") != KIND or not facts.get("complete"):
        raise TeacherCacheError(
            f"{folder} is no finished teacher cache: run the same `osteoray record-teacher` again"
        )
    tables = list(_tables(folder, facts))
    columns = [name for name in facts["outputs"] if name != "features"]
    columns += [f"features_{tap}" for tap in range(len(facts["channels"])) if "features" in facts["outputs"]]
    uids = [uid for table in tables for uid in table["sop_instance_uid"].to_pylist()]
    matrices = [_stack(table["original_to_network"].combine_chunks(), (3, 3)) for table in tables]
    return TeacherCache(
        folder=folder,
        facts=facts,
        place_of={uid: place for place, uid in enumerate(uids)},
        contents_N=[digest for table in tables for digest in table["content_sha256"].to_pylist()],
        to_network_N33=np.concatenate(matrices) if matrices else np.zeros((0, 3, 3)),
        starts_S=np.cumsum([0, *(table.num_rows for table in tables)])[:-1],
        columns={name: [_tensor(table[name]) for table in tables] for name in columns},
    )


def require_intact(folder: Path) -> None:
    """Read every shard once.

    Raises:
        TeacherCacheError: one was changed or damaged.
    """
    for shard, facts in enumerate(read_json(folder / MANIFEST_NAME)["shards"]):
        path = shard_path(folder, shard)
        if not path.exists() or sha256_of_file(path) != facts["sha256"]:
            raise TeacherCacheError(
                f"{path} is absent or was changed: remove the cache and run `osteoray record-teacher` again"
            )


def _tables(folder: Path, facts: Mapping[str, Any]) -> Iterator[pa.Table]:
    for shard, stated in enumerate(facts["shards"]):
        path = shard_path(folder, shard)
        table = _opened(path, digests(facts))
        if table.num_rows != stated["rows"]:
            raise TeacherCacheError(f"{path} has another number of rows than stated: record it again")
        yield table


def _opened(path: Path, stamp: Mapping[str, str]) -> pa.Table:
    """A shard in place; refuses one of other teachers or of another view."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise TeacherCacheError(
            f"{path} is absent or damaged: run `osteoray record-teacher` again"
        ) from error
    stated = table.schema.metadata or {}
    if any(stated.get(name.encode()) != value.encode() for name, value in stamp.items()):
        raise TeacherCacheError(f"{path} is of another teacher or view than stated: record it again")
    return table


def _tensor(column: pa.ChunkedArray) -> NDArray[Any]:
    """One tensor column of a shard as an array on the mapped file; nothing is copied."""
    chunk = column.chunk(0) if column.num_chunks else column.combine_chunks()
    return _stack(chunk.storage, tuple(column.type.shape))


def _stack(lists: pa.FixedSizeListArray, shape: tuple[int, ...]) -> NDArray[Any]:
    values: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=len(lists) > 0)
    return values.reshape(-1, *shape)
