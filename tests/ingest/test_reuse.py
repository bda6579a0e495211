"""Rows of bytes that were scored before are found by their digest, where they would come out the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import AlreadyScoredError, BodyPartOpenError, LedgerError, TableError, UsageError
from engine.ingest import reuse
from engine.ingest.sample import Reading, samples_of
from engine.store import ledger, schema
from engine.store.files import code_version, sha256_of_bytes, write_json
from engine.tasks.hand_age import HAND_AGE
from tests.fixtures.source_fixture import instance

MANIFEST = {
    "kind": "score", "salt_check": "s",
    "config": {"models": [{"model_sha256": "m", "engine": "onnxruntime"}], "shard_size": 9},
}  # fmt: skip

MODELS = {"m": "hand-age"}


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def scored(
    folder: Path,
    numbers: list[int],
    *,
    version: str | None = None,
    model: str = "m",
    task: str = "hand-age",
) -> Path:
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
                "model_sha256": [model] * len(some),
                "route": ["only_fit"] * len(some),
                "attention_map": schema.tensor_column(np.full((len(some), 2, 2), 9, np.uint8)),
            }
        )
        place = ledger.shard_folder(folder, shard // 2)
        place.mkdir(parents=True)
        pq.write_table(table, place / f"predictions-{task}.parquet")
    write_json(folder / "manifest.json", MANIFEST)
    return folder


def wanted(number: int, place: int, rule: int = 0) -> dict[str, Any]:
    return {
        "instance_index": place, "path": f"new{number}", "shard": 7, "version": 2,
        "content_sha256": digest(number), "rule": rule, "route": "first_named",
    }  # fmt: skip


def test_known_bytes_are_found_in_any_of_the_folders(tmp_path: Path) -> None:
    first, second = scored(tmp_path / "a", list(range(300))), scored(tmp_path / "b", [900, 901, 902])
    index = tmp_path / "index"
    assert reuse.write_index(index, [first, second], MODELS) == 303
    for number in (0, 151, 299, 900, 902):
        assert reuse.is_known(index, digest(number))
    for number in (300, 899, 10**6):
        assert not reuse.is_known(index, digest(number))


def test_the_earlier_row_comes_with_its_new_place(tmp_path: Path) -> None:
    index = tmp_path / "index"
    reuse.write_index(index, [scored(tmp_path / "a", list(range(9)))], MODELS)
    rows = reuse.rows(index, [wanted(5, 40), wanted(0, 41)])["predictions-hand-age"].to_pylist()
    assert [(row["instance_index"], row["path"], row["shard"], row["version"]) for row in rows] == [
        (40, "new5", 7, 2),
        (41, "new0", 7, 2),
    ]
    assert [row["predicted_months"] for row in rows] == [5.0, 0.0]


def test_a_row_is_that_of_the_model_that_is_asked(tmp_path: Path) -> None:
    both = [scored(tmp_path / "a", [1, 2]), scored(tmp_path / "b", [1], model="n", task="knee-age")]
    other = scored(tmp_path / "c", [3], model="x")
    index = tmp_path / "index"
    assert reuse.write_index(index, [*both, other], {"n": "knee-age", "m": "hand-age"}) == 3
    assert [reuse.is_known(index, digest(number), 0) for number in (1, 2, 3)] == [True, False, False]
    assert [reuse.is_known(index, digest(number), 1) for number in (1, 2, 3)] == [True, True, False]
    found = reuse.rows(index, [wanted(1, 0, rule=0), wanted(1, 1, rule=1)])
    for place, (task, model) in enumerate((("knee-age", "n"), ("hand-age", "m"))):
        (row,) = found[f"predictions-{task}"].drop_columns("attention_map").to_pylist()
        assert (row["model_sha256"], row["rule"], row["route"]) == (model, place, "first_named")


def withheld(folder: Path, number: int, columns: pa.Schema, **changes: str) -> Path:
    """A folder of `scored` whose first shard withheld the score of one more."""
    row = {
        "instance_index": number, "path": f"old{number}", "shard": 0, "version": 1, "task": "hand-age",
        "reason": "rotated", "code": "ORY-A06", "message": "m", "content_sha256": digest(number),
        "model_sha256": "m", "code_version": code_version(), **changes,
    }  # fmt: skip
    table = pa.Table.from_pylist([row], schema=columns)
    pq.write_table(table, ledger.shard_folder(folder, 0) / "abstained.parquet")
    return folder


def test_a_withheld_score_is_taken_with_its_reason(tmp_path: Path) -> None:
    index = tmp_path / "index"
    folder = withheld(scored(tmp_path / "a", [1, 2]), 3, schema.ABSTAINED)
    assert reuse.write_index(index, [folder], MODELS) == 3
    found = reuse.rows(index, [wanted(2, 40), wanted(3, 41)])
    assert found["predictions-hand-age"]["instance_index"].to_pylist() == [40]
    (row,) = found["abstained"].to_pylist()
    assert (row["instance_index"], row["path"], row["shard"], row["version"]) == (41, "new3", 7, 2)
    assert (row["reason"], row["code"], row["model_sha256"]) == ("rotated", "ORY-A06", "m")


@pytest.mark.parametrize(
    ("columns", "changes"),
    [
        (schema.ABSTAINED, {"model_sha256": "n"}),
        (schema.ABSTAINED, {"code_version": "0.0.1"}),
    ],
)
def test_a_score_that_another_model_or_code_withheld_is_made_anew(
    tmp_path: Path, columns: pa.Schema, changes: dict[str, str]
) -> None:
    folder = withheld(scored(tmp_path / "a", [1, 2]), 3, columns, **changes)
    assert reuse.write_index(tmp_path / "index", [folder], MODELS) == 2
    assert not reuse.is_known(tmp_path / "index", digest(3))


def test_rows_of_an_earlier_release_are_refused(tmp_path: Path) -> None:
    folder = scored(tmp_path / "a", [1])
    path = ledger.shard_folder(folder, 0) / "predictions-hand-age.parquet"
    earlier = {**(pq.read_schema(path).metadata or {}), "osteoray.schema_version": "4"}
    pq.write_table(pq.read_table(path).replace_schema_metadata(earlier), path)
    with pytest.raises(TableError, match="earlier release"):
        reuse.write_index(tmp_path / "index", [folder], MODELS)


def test_one_model_in_common_is_enough(tmp_path: Path) -> None:
    folder = scored(tmp_path / "a", [1])
    more = [*MANIFEST["config"]["models"], {"model_sha256": "n", "engine": "torch"}]
    reuse.require_same(folder, {**MANIFEST, "config": {"models": more}})


def test_rows_of_other_code_are_not_taken(tmp_path: Path) -> None:
    assert (
        reuse.write_index(tmp_path / "index", [scored(tmp_path / "a", [1, 2], version="0.0.1")], MODELS) == 0
    )
    assert not reuse.is_known(tmp_path / "index", digest(1))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"config": {"models": [{"model_sha256": "n", "engine": "onnxruntime"}]}}, "model"),
        ({"config": {"models": [{"model_sha256": "m", "engine": "torch"}]}}, "engine"),
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


def test_known_bytes_need_a_name_where_only_what_is_named_goes(tmp_path: Path) -> None:
    data, index = instance(1), tmp_path / "index"
    folder = scored(tmp_path / "a", [1])
    path = ledger.shard_folder(folder, 0) / "predictions-hand-age.parquet"
    table = pq.read_table(path).drop_columns(["content_sha256"])
    pq.write_table(table.append_column("content_sha256", pa.array([sha256_of_bytes(data)])), path)
    reuse.write_index(index, [folder], MODELS)
    reading = Reading(source="", rules=(HAND_AGE.rule,), salt=b"salt", known=index)
    for route, expected in (("all", AlreadyScoredError), ("named", BodyPartOpenError)):
        (outcome,) = samples_of(data, replace(reading, route=route))
        assert type(outcome) is expected


def test_a_row_that_is_no_longer_there_is_an_error(tmp_path: Path) -> None:
    folder, index = scored(tmp_path / "a", [1, 2]), tmp_path / "index"
    reuse.write_index(index, [folder], MODELS)
    path = ledger.shard_folder(folder, 0) / "predictions-hand-age.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(LedgerError):
        reuse.rows(index, [wanted(1, 0)])
