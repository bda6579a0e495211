"""Rows of bytes that were scored before are found by their digest, where they would come out the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import books, reuse
from engine.errors import AlreadyScoredError, BooksError, UsageError
from engine.manifest import code_version, write_json

MANIFEST = {
    "kind": "score", "salt_check": "s",
    "config": {"model_sha256": "m", "engine": "onnxruntime", "shard_size": 9},
}  # fmt: skip


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def scored(folder: Path, numbers: list[int], *, version: str | None = None) -> Path:
    """A score folder as far as reuse looks: two rows a shard."""
    for shard in range(0, len(numbers), 2):
        some = numbers[shard : shard + 2]
        table = pa.table(
            {
                "instance_index": pa.array(some, pa.int64()),
                "path": [f"old{number}" for number in some],
                "shard": pa.array([shard // 2] * len(some), pa.int32()),
                "version": pa.array([1] * len(some), pa.int32()),
                "content_sha256": [digest(number) for number in some],
                "predicted_months": pa.array([float(number) for number in some], pa.float32()),
                "code_version": [version or code_version()] * len(some),
            }
        )
        place = books.shard_folder(folder, shard // 2)
        place.mkdir(parents=True)
        pq.write_table(table, place / "predictions.parquet")
    write_json(folder / "manifest.json", MANIFEST)
    return folder


def wanted(number: int, place: int) -> dict[str, Any]:
    return {
        "instance_index": place, "path": f"new{number}", "shard": 7, "version": 2,
        "content_sha256": digest(number),
    }  # fmt: skip


def test_known_bytes_are_found_in_any_of_the_folders(tmp_path: Path) -> None:
    first, second = scored(tmp_path / "a", list(range(300))), scored(tmp_path / "b", [900, 901, 902])
    index = tmp_path / "index"
    assert reuse.write_index(index, [first, second]) == 303
    for number in (0, 151, 299, 900, 902):
        with pytest.raises(AlreadyScoredError) as known:
            reuse.require_unknown(index, digest(number))
        assert known.value.content_sha256 == digest(number)
    for number in (300, 899, 10**6):
        reuse.require_unknown(index, digest(number))


def test_the_earlier_row_comes_with_its_new_place(tmp_path: Path) -> None:
    index = tmp_path / "index"
    reuse.write_index(index, [scored(tmp_path / "a", list(range(9)))])
    rows = reuse.rows(index, [wanted(5, 40), wanted(0, 41)]).to_pylist()
    assert [(row["instance_index"], row["path"], row["shard"], row["version"]) for row in rows] == [
        (40, "new5", 7, 2),
        (41, "new0", 7, 2),
    ]
    assert [row["predicted_months"] for row in rows] == [5.0, 0.0]


def test_rows_of_other_code_are_not_taken(tmp_path: Path) -> None:
    assert reuse.write_index(tmp_path / "index", [scored(tmp_path / "a", [1, 2], version="0.0.1")]) == 0
    reuse.require_unknown(tmp_path / "index", digest(1))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"config": {**MANIFEST["config"], "model_sha256": "n"}}, "model"),
        ({"config": {**MANIFEST["config"], "engine": "torch"}}, "engine"),
        ({"salt_check": "t"}, "salt"),
        ({"kind": "ingest"}, "osteoray score"),
    ],
)
def test_a_folder_that_was_scored_otherwise_is_refused(tmp_path: Path, change: Any, name: str) -> None:
    folder = scored(tmp_path / "a", [1])
    reuse.require_same(folder, {**MANIFEST, "config": {**MANIFEST["config"], "shard_size": 1}})
    write_json(folder / "manifest.json", {**MANIFEST, **change})
    with pytest.raises(UsageError, match=name):
        reuse.require_same(folder, MANIFEST)


def test_a_row_that_is_no_longer_there_is_an_error(tmp_path: Path) -> None:
    folder, index = scored(tmp_path / "a", [1, 2]), tmp_path / "index"
    reuse.write_index(index, [folder])
    path = books.shard_folder(folder, 0) / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(BooksError):
        reuse.rows(index, [wanted(1, 0)])
