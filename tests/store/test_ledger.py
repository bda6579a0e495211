"""Shards are committed whole and once; `verify` finds every planted damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import LedgerError, TableError
from engine.store import ledger, schema, verification
from jobs.running import running

PLANNED = 10
SHARD_SIZE = 4


def plan() -> pa.Table:
    return pa.table(
        {
            "instance_index": list(range(PLANNED)),
            "path": [f"f{i}" for i in range(PLANNED)],
            "shard": [i // SHARD_SIZE for i in range(PLANNED)],
            "size_bytes": [1] * PLANNED,
            "version": [1] * PLANNED,
        },
        schema=schema.PLAN,
    )


def rejects(indices: list[int]) -> pa.Table:
    rows = [
        {
            "instance_index": i, "path": f"f{i}", "shard": i // SHARD_SIZE, "sop_instance_uid": None,
            "reason": "not_dicom", "code": "ORY-I02", "message": "m", "version": 1,
            "content_sha256": f"{i:064x}",
        }
        for i in indices
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema.REJECTS)


def tables(indices: list[int]) -> dict[str, pa.Table]:
    """Even ones quarantined, odd ones filtered."""
    return {
        "quarantine": rejects([i for i in indices if i % 2 == 0]),
        "filtered": rejects([i for i in indices if i % 2]),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder of three shards, that no test changes."""
    out = tmp_path_factory.mktemp("books") / "out"
    with running(out) as run:  # verify wants the log that every run writes
        ledger.begin(out, {"kind": "ingest", "config_sha256": "a"})
        ledger.write_plan(out, plan())
        for shard in range(3):
            indices = [i for i in range(PLANNED) if i // SHARD_SIZE == shard]
            run.on_shard(shard, ledger.commit_shard(out, shard, tables(indices)))
        ledger.close(out, plan(), {}, None, run.log)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A finished folder of three shards, to damage at will."""
    return shutil.copytree(finished, tmp_path / "out")


def test_verify_counts(folder: Path) -> None:
    assert verification.verify(folder) == {"planned": PLANNED, "filtered": 5, "quarantined": 5}


def test_a_shard_is_committed_once(folder: Path) -> None:
    before = (ledger.shard_folder(folder, 1) / "shard.json").read_bytes()
    ledger.commit_shard(folder, 1, tables([4]))
    assert (ledger.shard_folder(folder, 1) / "shard.json").read_bytes() == before
    assert not list((folder / ".staging" / "unleased").iterdir())


def test_a_late_commit_gives_the_rows_that_stand(folder: Path) -> None:
    assert ledger.commit_shard(folder, 1, tables([4])) == {"quarantine": 2, "filtered": 2}


def test_a_shard_that_stands_in_the_way_and_is_none_is_an_error(folder: Path) -> None:
    (ledger.shard_folder(folder, 1) / "shard.json").unlink()
    with pytest.raises(OSError, match="not empty"):
        ledger.commit_shard(folder, 1, tables([4]))


def test_a_folder_with_missing_shards_is_not_closed(tmp_path: Path) -> None:
    ledger.begin(tmp_path, {"kind": "ingest", "config_sha256": "a"})
    ledger.write_plan(tmp_path, plan())
    ledger.commit_shard(tmp_path, 0, tables([0, 1, 2, 3]))
    with pytest.raises(LedgerError, match="4 of 10 planned instances ended"):
        ledger.close(tmp_path, plan(), {})
    with pytest.raises(LedgerError, match="is not complete"):
        verification.verify(tmp_path)


def test_closing_a_closed_folder_changes_nothing(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert ledger.close(folder, plan(), {"speed": 1}) == verification.verify(folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_missing_shards_are_what_is_not_committed(folder: Path) -> None:
    assert ledger.missing_shards(folder, plan()) == []
    shutil.rmtree(ledger.shard_folder(folder, 1))
    assert ledger.missing_shards(folder, plan()) == [1]


def test_half_written_work_is_no_shard_and_goes_at_the_end(folder: Path) -> None:
    shutil.rmtree(ledger.shard_folder(folder, 2))
    staging = folder / ".staging" / "unleased" / "00002.x"
    staging.mkdir(parents=True)
    (staging / "quarantine.parquet").write_bytes(b"half")
    assert ledger.missing_shards(folder, plan()) == [2]
    ledger.clear_staging(folder)
    assert not (folder / ".staging").exists()


def test_a_table_without_a_wanted_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"b": [1], "a": [2], "c": [3]}), tmp_path / "t.parquet")
    assert ledger.read_table(tmp_path / "t.parquet", ["a", "b"]).column_names == ["a", "b"]
    assert ledger.read_present(tmp_path / "t.parquet", ["a", "z"]).to_pydict() == {"a": [2]}
    with pytest.raises(TableError, match=r"t\.parquet has no column z"):
        ledger.read_table(tmp_path / "t.parquet", ["a", "z"])


def test_other_inputs_and_other_configuration_are_refused(folder: Path) -> None:
    with pytest.raises(TableError, match="other inputs"):
        ledger.write_plan(folder, plan().slice(1))
    with pytest.raises(TableError, match="another configuration"):
        ledger.begin(folder, {"kind": "ingest", "config_sha256": "b"})
    with pytest.raises(TableError, match="another configuration"):
        ledger.begin(folder, {"kind": "score", "config_sha256": "a"})


def flip_a_byte(folder: Path) -> None:
    path = ledger.shard_folder(folder, 0) / "quarantine.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table and mend its digest and count, as a careless tool or a liar would."""
    from engine.store.files import sha256_of_file

    place = ledger.shard_folder(folder, 0)
    changed = change(pq.read_table(place / "quarantine.parquet"))
    pq.write_table(changed, place / "quarantine.parquet")
    facts = json.loads((place / "shard.json").read_text())
    facts["sha256"]["quarantine.parquet"] = sha256_of_file(place / "quarantine.parquet")
    facts["rows"]["quarantine"] = changed.num_rows
    (place / "shard.json").write_text(json.dumps(facts))


def drop_a_row(folder: Path) -> None:
    rewrite(folder, lambda table: table.slice(1))


def double_a_row(folder: Path) -> None:
    rewrite(folder, lambda table: pa.concat_tables([table, table.slice(0, 1)]))


def drop_a_file(folder: Path) -> None:
    (ledger.shard_folder(folder, 1) / "filtered.parquet").unlink()


def add_a_file(folder: Path) -> None:
    (ledger.shard_folder(folder, 1) / "more.parquet").write_bytes(b"")


def drop_a_shard(folder: Path) -> None:
    shutil.rmtree(ledger.shard_folder(folder, 2))


def add_a_shard(folder: Path) -> None:
    shutil.copytree(ledger.shard_folder(folder, 2), ledger.shard_folder(folder, 3))


def change_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"quarantined": 5', '"quarantined": 4'))


def change_the_plan(folder: Path) -> None:
    path = folder / "plan.parquet"
    changed = pq.read_table(path).set_column(
        1, schema.PLAN.field("path"), [[f"g{i}" for i in range(PLANNED)]]
    )
    pq.write_table(changed, path)


def swap_rows_between_shards(folder: Path) -> None:
    first, second = (ledger.shard_folder(folder, shard) for shard in (0, 1))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def _restate(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = ledger.shard_folder(folder, 1) / "shard.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def forget_the_rows(folder: Path) -> None:
    _restate(folder, lambda facts: facts.pop("rows"))


def state_a_table_that_is_none(folder: Path) -> None:
    _restate(folder, lambda facts: facts["rows"].update(more=1))


def state_another_count(folder: Path) -> None:
    _restate(folder, lambda facts: facts["rows"].update(filtered=3))


def break_the_shard_facts(folder: Path) -> None:
    (ledger.shard_folder(folder, 1) / "shard.json").write_text("{")


def drop_all_shards(folder: Path) -> None:
    shutil.rmtree(folder / "shards")


def drop_the_plan(folder: Path) -> None:
    (folder / "plan.parquet").unlink()


def unfinish_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte, drop_a_row, double_a_row, drop_a_file, add_a_file, drop_a_shard, add_a_shard,
        change_the_manifest, unfinish_the_manifest, change_the_plan, swap_rows_between_shards,
        forget_the_rows, state_a_table_that_is_none, state_another_count, break_the_shard_facts,
        drop_all_shards, drop_the_plan,
    ],
)  # fmt: skip
def test_planted_damage_is_found(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises((LedgerError, TableError)):
        verification.verify(folder)
