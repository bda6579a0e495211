"""Entries of a source -> the plan, in memory of a few bytes an instance: rows become Arrow in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.sources.names import DUPLICATE
from engine.store import schema

OnProgress = Callable[[int], None]
"""Is told how many entries have been listed so far."""

_PIECE = 4096
MOST_MEMBERS = 100_000_000
"""Of one source: a server that invents members without end is none."""

_SHARDS = 128
"""With so many, the last ones, which some workers have in hand while others idle, are little of the run."""
_LEAST_SIZE, _MOST_SIZE = 64, 256
"""A shard costs 0.16 s beside its instances, nearly all of it the pause before a worker gets the next one:
5 % of what 64 radiographs take, 10 % of 32."""


class Entry(NamedTuple):
    """A member: its path as the plan has it, its bytes (-1: the source does not say), and its series."""

    path: str
    size_bytes: int
    series: str = ""


_LISTED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("series", pa.string(), nullable=False),
    ]
)


def listed(entries: Iterable[Entry | None], on_progress: OnProgress | None = None) -> pa.Table:
    """Columns ``path``, ``size_bytes`` and ``series`` (empty where unknown), sorted by path.

    Of several entries with one path the first keeps it; the others get ``!duplicate2`` and so on, a name that
    no other member has: each ends as a row of its own, with a reason. An entry that is None tells that the
    source is still at work.

    Raises:
        UsageError: the source lists more members than any archive has.
    """
    batches: list[pa.RecordBatch] = []
    piece: list[Entry] = []
    count = 0
    for entry in entries:
        if entry is not None:
            piece.append(entry)
        if entry is None or len(piece) == _PIECE:
            count = _flush(piece, batches, count, on_progress)
    _flush(piece, batches, count, on_progress)
    table = pa.Table.from_batches(batches, schema=_LISTED)
    if _is_ascending(table["path"]):  # most sources list by path: nothing to copy then
        return table
    return _unique(table.take(pc.sort_indices(table, sort_keys=[("path", "ascending")])))


def fitting_shard_size(count: int) -> int:
    """Instances in a shard of a source of ``count``, where nobody says."""
    return min(max(count // _SHARDS, _LEAST_SIZE), _MOST_SIZE)


def planned(table: pa.Table, shard_size: int | None) -> pa.Table:
    """The plan (``schema.PLAN``) of what was listed; a series lies in one shard where series are known.

    Without a ``shard_size`` it is the fitting one.
    """
    count = table.num_rows
    shard_size = shard_size or fitting_shard_size(count)
    has_series = count > 0 and pc.any(pc.not_equal(table["series"], "")).as_py()
    count_N = np.arange(count, dtype=np.int64)
    shards = cut_shards(table["series"], shard_size) if has_series else count_N // shard_size
    columns = {
        "instance_index": pa.array(count_N),
        "path": table["path"],
        "shard": pa.array(shards.astype(np.int32)),
        "size_bytes": table["size_bytes"],
        "version": pa.array(np.ones(count, np.int32)),
    }
    return pa.table(columns, schema=schema.PLAN)


def together(table: pa.Table) -> pa.Table:
    """The rows of each series next to each other, where its first one stood; others stay in their order."""
    firsts: dict[str, int] = {}
    series = table["series"].to_pylist()
    places = [firsts.setdefault(name, row) if name else row for row, name in enumerate(series)]
    return table.take(pa.array(np.argsort(places, kind="stable")))


def cut_shards(series: pa.ChunkedArray, shard_size: int) -> NDArray[np.int64]:
    """Shard [rows] of each row: ``shard_size`` rows at most, but never a series cut in two.

    Rows of a series stand together; a series that is longer than a shard has a shard alone. Rows whose series
    is empty may be cut anywhere.
    """
    count = len(series)
    if count == 0:
        return np.zeros(0, np.int64)
    codes = series.combine_chunks().dictionary_encode()
    names = codes.dictionary
    code_N = codes.indices.to_numpy(zero_copy_only=False)
    is_start_N = np.ones(count, bool)
    is_start_N[1:] = code_N[1:] != code_N[:-1]
    unknown = pc.index(names, "").as_py()
    if unknown >= 0:
        is_start_N |= code_N == unknown
    starts = np.flatnonzero(is_start_N)
    lengths = np.diff(np.append(starts, count))
    shard_of_run = np.empty(len(starts), np.int64)
    shard, filled = 0, 0
    for run, length in enumerate(lengths.tolist()):
        if filled and filled + length > shard_size:
            shard, filled = shard + 1, 0
        shard_of_run[run] = shard
        filled += length
    return np.repeat(shard_of_run, lengths)


def _flush(
    piece: list[Entry], batches: list[pa.RecordBatch], count: int, on_progress: OnProgress | None
) -> int:
    if piece:
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*piece, strict=True), _LISTED, strict=True)
        ]
        batches.append(pa.record_batch(columns, schema=_LISTED))
        count += len(piece)
        piece.clear()
        if count > MOST_MEMBERS:
            raise UsageError(f"the source lists more than {MOST_MEMBERS:,} members: give parts of it")
    if on_progress:
        on_progress(count)
    return count


def _is_ascending(path: pa.ChunkedArray) -> bool:
    """Whether each path is above the one before: sorted, and none twice."""
    before = None
    for chunk in path.chunks:
        if not pc.all(pc.less(chunk[:-1], chunk[1:])).as_py():
            return False
        if len(chunk):
            if before is not None and not before < chunk[0].as_py().encode():
                return False
            before = chunk[-1].as_py().encode()
    return True


def _unique(table: pa.Table) -> pa.Table:
    """The sorted table with another path for each repetition."""
    path = table["path"]
    is_same = pc.equal(path.slice(1), path.slice(0, max(table.num_rows - 1, 0)))
    if not pc.any(is_same).as_py():
        return table
    repeated = np.flatnonzero(is_same.to_numpy()) + 1
    taken = set(path.filter(pc.match_substring(path, DUPLICATE)).to_pylist())
    renamed: list[str] = []
    number, before = 1, -1
    for row in repeated.tolist():
        number = number + 1 if row == before + 1 else 2
        before = row
        while (name := f"{path[row].as_py()}{DUPLICATE}{number}") in taken:
            number += 1
        taken.add(name)
        renamed.append(name)
    mask = np.zeros(table.num_rows, bool)
    mask[repeated] = True
    names = pc.replace_with_mask(path.combine_chunks(), mask, pa.array(renamed, pa.string()))
    table = table.set_column(0, _LISTED.field("path"), names)
    return table.take(pc.sort_indices(table, sort_keys=[("path", "ascending")]))
