"""What `verify` finds: every planted damage to a folder that a run left, its audit log included."""

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
from engine.store import audit_log, ledger, verification
from engine.store.files import sha256_of_facts, sha256_of_file
from jobs.running import running
from jobs.verify import verify as verify_job
from tests.fixtures.story import osteoray
from tests.store.test_ledger import PLANNED, SHARD_SIZE, plan, tables

assert verify_job.__doc__
FACTS = {"kind": "score", "config_sha256": "a", "config": {"model_sha256": "m"}, "task": "hand-age"}


def run_all(out: Path, shards: range = range(3)) -> None:
    """What a run does to a folder, without the reading."""
    with running(out) as run:
        ledger.begin(out, FACTS, run.staging)
        planned = ledger.write_plan(out, plan(), run.staging)
        missing = ledger.missing_shards(out, planned)
        run.begin("score", planned, missing)
        for shard in sorted(set(missing) & set(shards)):
            indices = [i for i in range(PLANNED) if i // SHARD_SIZE == shard]
            run.on_shard(shard, ledger.commit_shard(out, shard, tables(indices), run.staging))
        if not ledger.missing_shards(out, planned):
            ledger.close(out, planned, {"speed": {"wall_s": 1.0}}, run.staging, run.log)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proof") / "out"
    run_all(out, range(1))
    run_all(out)
    return out


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A folder that was finished in two runs, to damage at will."""
    return shutil.copytree(finished, tmp_path / "out")


def lines_of(folder: Path) -> list[str]:
    return (folder / audit_log.AUDIT_NAME).read_text().splitlines(keepends=True)


def test_the_log_tells_what_was_done(folder: Path) -> None:
    assert verification.verify(folder)["planned"] == PLANNED
    told = [(line["event"], line["token"], line.get("shard")) for line in audit_log.read(folder)]
    assert told == [
        ("started", 1, None), ("shard", 1, 0),
        ("started", 2, None), ("shard", 2, 1), ("shard", 2, 2), ("finished", 2, None),
    ]  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["audit_sha256"] == list(audit_log.read(folder))[-1]["sha256"]


def test_a_shard_whose_run_was_killed_before_its_line_is_noted_by_the_next(tmp_path: Path) -> None:
    run_all(tmp_path, range(0))
    ledger.commit_shard(tmp_path, 1, tables([4, 5, 6, 7]))
    run_all(tmp_path)
    assert [(line["event"], line["shard"]) for line in audit_log.read(tmp_path) if "shard" in line] == [
        ("found", 1), ("shard", 0), ("shard", 2),
    ]  # fmt: skip
    verification.verify(tmp_path)


def test_a_line_that_a_kill_cut_is_left_out(tmp_path: Path) -> None:
    run_all(tmp_path, range(1))
    path = tmp_path / audit_log.AUDIT_NAME
    path.write_bytes(path.read_bytes()[:-9])  # of shard 0
    run_all(tmp_path)
    assert [line["event"] for line in audit_log.read(tmp_path)].count("found") == 1
    verification.verify(tmp_path)


def test_a_run_refuses_to_write_behind_a_log_that_was_changed(tmp_path: Path) -> None:
    run_all(tmp_path, range(1))
    path = tmp_path / audit_log.AUDIT_NAME
    path.write_text(path.read_text().replace('"score"', '"scorn"'))
    with pytest.raises(LedgerError, match="line 1 of .* is not what was written"):
        run_all(tmp_path)


def change_a_line(folder: Path) -> None:
    path = folder / audit_log.AUDIT_NAME
    path.write_text(path.read_text().replace('"token": 2', '"token": 3', 1))


def drop_the_last_line(folder: Path) -> None:
    (folder / audit_log.AUDIT_NAME).write_text("".join(lines_of(folder)[:-1]))


def drop_a_line(folder: Path) -> None:
    lines = lines_of(folder)
    (folder / audit_log.AUDIT_NAME).write_text("".join([*lines[:2], *lines[3:]]))


def swap_two_lines(folder: Path) -> None:
    lines = lines_of(folder)
    (folder / audit_log.AUDIT_NAME).write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))


def double_the_last_line(folder: Path) -> None:
    (folder / audit_log.AUDIT_NAME).write_text("".join([*lines_of(folder), lines_of(folder)[-1]]))


def cut_the_log(folder: Path) -> None:
    path = folder / audit_log.AUDIT_NAME
    path.write_bytes(path.read_bytes()[:-1])


def fill_the_log_with_other_bytes(folder: Path) -> None:
    (folder / audit_log.AUDIT_NAME).write_bytes(b"\xff\x00\n")


def drop_the_log(folder: Path) -> None:
    (folder / audit_log.AUDIT_NAME).unlink()


def forge_a_line(folder: Path) -> None:
    """Add a line with a sound chain, as one who knows how it is made."""
    last = list(audit_log.read(folder))[-1]
    line = {"n": last["n"] + 1, "event": "retried", "previous": last["sha256"]}
    with (folder / audit_log.AUDIT_NAME).open("a") as stream:
        stream.write(json.dumps({**line, "sha256": sha256_of_facts(line)}) + "\n")


def state(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    facts = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: fact for name, fact in facts.items() if fact is not None}))


def change_the_model_in_the_manifest(folder: Path) -> None:
    state(folder, config={"model_sha256": "n"})


def change_the_end_in_the_manifest(folder: Path) -> None:
    state(folder, finished="2020-01-01T00:00:00+00:00")


def add_to_the_manifest(folder: Path) -> None:
    state(folder, approved_by="nobody")


def forget_the_log_in_the_manifest(folder: Path) -> None:
    state(folder, audit_sha256=None)


def remove_the_log_and_what_is_said_of_it(folder: Path) -> None:
    """Change a shard as well, as one who hides it."""
    shard = ledger.shard_folder(folder, 0) / "shard.json"
    shard.write_text(json.dumps(json.loads(shard.read_text())))
    drop_the_log(folder)
    state(folder, audit_sha256=None)


def put_a_file_beside(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")


def put_a_file_among_the_shards(folder: Path) -> None:
    (folder / "shards" / "notes.txt").write_text("x")


def put_a_file_into_a_shard(folder: Path) -> None:
    (ledger.shard_folder(folder, 1) / "notes.txt").write_text("x")


def rewrite_a_shard_as_a_liar(folder: Path) -> None:
    """Another value in a row, with digest and counts mended: nothing but the log knows better."""
    place = ledger.shard_folder(folder, 0)
    table = pq.read_table(place / "quarantine.parquet")
    column = table.column_names.index("path")
    changed = table.set_column(column, table.field(column), pa.array(["other"] * table.num_rows))
    pq.write_table(changed, place / "quarantine.parquet")
    facts = json.loads((place / "shard.json").read_text())
    facts["sha256"]["quarantine.parquet"] = sha256_of_file(place / "quarantine.parquet")
    (place / "shard.json").write_text(json.dumps(facts))


def rewrite_the_plan(folder: Path) -> None:
    """Versions that do not count, with the digest of the plan mended."""
    path = folder / ledger.PLAN_NAME
    table = pq.read_table(path)
    column = table.column_names.index("version")
    changed = table.set_column(column, table.field(column), pa.array([2] * PLANNED, pa.int32()))
    pq.write_table(changed, path)
    state(folder, plan_sha256=sha256_of_file(path))


DAMAGES = [
    change_a_line, drop_the_last_line, drop_a_line, swap_two_lines, double_the_last_line, cut_the_log,
    fill_the_log_with_other_bytes, drop_the_log, forge_a_line, change_the_model_in_the_manifest,
    change_the_end_in_the_manifest, add_to_the_manifest, forget_the_log_in_the_manifest, put_a_file_beside,
    remove_the_log_and_what_is_said_of_it,
    put_a_file_among_the_shards, put_a_file_into_a_shard, rewrite_a_shard_as_a_liar, rewrite_the_plan,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_planted_damage_is_found(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises((LedgerError, TableError)):
        verification.verify(folder)


def test_a_folder_that_was_rewritten_as_a_whole_is_found_by_a_digest_kept_elsewhere(
    folder: Path, tmp_path: Path
) -> None:
    head = list(audit_log.read(folder))[-1]["sha256"]
    assert osteoray("verify", folder, "--audit-head", head).code == 0
    run_all(tmp_path / "again")  # a folder that is sound in itself
    ended = osteoray("verify", tmp_path / "again", "--audit-head", head)
    assert (ended.code, ended.facts["error"]) == (1, "ORY-T02")


def test_reports_and_other_verbs_may_write_beside(folder: Path) -> None:
    for name in verification.BESIDE:
        (folder / name).mkdir()
    verification.verify(folder)


def test_the_log_names_no_file_of_the_archive(folder: Path) -> None:
    text = (folder / audit_log.AUDIT_NAME).read_text()
    assert not [row for row in plan()["path"].to_pylist() if f'"{row}"' in text]
