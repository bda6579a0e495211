"""The folder that `osteoray ingest` leaves, read back: its facts, and its samples in batches.

Legend: B samples, H, W view, Q covariate columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import TableError
from engine.ingest import covariates
from engine.ingest.covariates import Covariate
from engine.store import ledger
from engine.store.files import MANIFEST_NAME, read_json, sha256_of_facts, sha256_of_file

_FLOAT32 = pa.float32()


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a finished ingest.

    Raises:
        TableError: the folder is none.
    """
    manifest = read_json(folder / MANIFEST_NAME)
    if manifest.get("kind") != "ingest" or not manifest.get("complete"):
        raise TableError(f"{folder} is no finished ingest: run `osteoray ingest` again to complete it")
    return manifest


def data_facts(folder: Path) -> dict[str, Any]:
    """Counts and digest of an ingest folder, for the record of a run.

    Raises:
        TableError: the folder is no finished ingest.
    """
    manifest = manifest_of(folder)
    digests = [
        read_json(path.parent / "shard.json")["sha256"] for path in ledger.tables_of(folder, "samples")
    ]
    shown: dict[str, Any] = {name: manifest[name] for name in ("crop", "views") if name in manifest}
    return {
        "counts": manifest["counts"],
        "rule": manifest["task"]["rule"],
        **shown,
        "sha256": sha256_of_facts(digests),
        "plan_sha256": sha256_of_file(folder / ledger.PLAN_NAME),
    }


def read_samples(path: Path, columns: Sequence[str], superseded: pa.Array | None) -> pa.Table:
    """Columns of the valid samples in one shard's table; a column that it lacks is left out.

    Of a file that changed only the last version is valid: ``superseded`` is ``ledger.superseded(folder)``.
    """
    table = ledger.read_present(path, list(dict.fromkeys(["instance_index", *columns])))
    return table.filter(pc.invert(pc.is_in(table["instance_index"], superseded)))


def batches(folder: Path, columns: Sequence[str], size: int | None = None) -> Iterator[pa.Table]:
    """Valid samples in the order of the shards, at most ``size`` of a shard at a time; None: whole shards."""
    paths = ledger.tables_of(folder, "samples")
    superseded = ledger.superseded(folder) if paths else None
    for path in paths:
        table = read_samples(path, columns, superseded)
        for start in range(0, table.num_rows, size or max(table.num_rows, 1)):
            yield table.slice(start, size)


def covariate_columns(table: pa.Table, given: Sequence[Covariate]) -> NDArray[np.float32]:
    """Covariate columns [B, Q] of samples; what the table has no column for is missing."""
    held = [name for name in covariates.sources(given) if name in table.column_names]
    rows = table.select(held).to_pylist() if held else [{}] * table.num_rows
    return covariates.columns(rows, given)


def numbers(table: pa.Table, name: str, kind: pa.DataType = _FLOAT32) -> NDArray[Any]:
    """A column of numbers [B] of one kind, NaN where there is none; all NaN without the column."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan, kind.to_pandas_dtype())
    return np.array(table[name].cast(kind).to_numpy())
