"""A second look at an archive: the same bytes are skipped, new and changed files get rows, old rows stay."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from engine import sources
from engine.ingest.shard import ReadSpec
from engine.store import ledger, verification
from engine.store.files import read_json, sha256_of_facts
from engine.tasks import task_named
from engine.tasks.hand_age import HAND_AGE
from engine.training.dataset import open_training_set, pack_images
from jobs.plan import Listing, begin, to_do, unfinished, waiting
from jobs.running import running
from tests.fixtures.training_fixture import LABEL, LABELS, Made, ingest_missing, small_view, write_ingest


def begun(spec: ReadSpec) -> Listing:
    def manifest_of(shard_size: int) -> dict[str, str]:
        return {"kind": "ingest", "source": spec.source, "config_sha256": sha256_of_facts(0)}

    return begin(spec, manifest_of, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive of 40 files in ``archive``, ingested into ``samples``."""
    splits = ["train"] * 31 + ["test"] * 9
    ages = range(20, 180, 4)
    made = [Made(patient=f"P{age}", months=age, split=split) for age, split in zip(ages, splits, strict=True)]
    write_ingest(tmp_path, made)
    return tmp_path


def spec_of(folder: Path) -> ReadSpec:
    rule = small_view(task_named("hand-age")).rule
    return ReadSpec(
        source=str(folder / "archive"), folder=folder / "samples", rules=(rule,), salt=b"a salt for tests",
        label_names=(LABEL,), isolation=None,
    )  # fmt: skip


def again(folder: Path) -> dict[str, int]:
    """What `ingest --incremental` does, in this process."""
    spec = spec_of(folder)
    with running(spec.folder) as run:
        listing, before = begun(spec), unfinished(spec.folder)
        if before is not None:
            ingest_missing(spec, before, run)
        return ingest_missing(spec, to_do(spec, listing, incremental=True), run)


def rows(folder: Path, table: str = "samples") -> pl.DataFrame:
    paths = ledger.tables_of(folder / "samples", table)
    columns = ["instance_index", "path", "version", "content_sha256"]
    return pl.concat([pl.read_parquet(path, columns=columns) for path in paths]).sort("instance_index")


def test_nothing_new_changes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*.parquet")}
    assert again(folder) == {"planned": 40, "samples": 40, "filtered": 0, "quarantined": 0}
    assert {path: path.stat().st_mtime_ns for path in (folder / "samples").rglob("*.parquet")} == before
    assert "growths" not in read_json(folder / "samples" / "manifest.json")


def test_new_and_changed_files_are_taken_in_and_old_rows_stay(folder: Path) -> None:
    archive = folder / "archive"
    first = rows(folder)
    (archive / "00050.dcm").write_bytes((archive / "00000.dcm").read_bytes())  # the same bytes, a new place
    (archive / "00003.dcm").write_bytes((archive / "00004.dcm").read_bytes())  # as long as before
    (archive / "00005.dcm").write_bytes((archive / "00006.dcm").read_bytes()[:-100])
    (archive / "00007.dcm").unlink()
    os.utime(archive / "00008.dcm")  # touched, not changed
    assert again(folder) == {"planned": 43, "samples": 42, "filtered": 0, "quarantined": 1}
    verification.verify(folder / "samples")
    grown = rows(folder)
    assert grown.head(40).equals(first)
    assert grown.tail(2).select("path", "version").rows() == [("00003.dcm", 2), ("00050.dcm", 1)]
    (refused,) = rows(folder, "quarantine").rows(named=True)
    assert (refused["path"], refused["version"]) == ("00005.dcm", 2)
    growth = read_json(folder / "samples" / "manifest.json")["growths"][0]
    assert {name: growth[name] for name in ("new", "changed", "unchanged", "vanished")} == {
        "new": 1, "changed": 2, "unchanged": 37, "vanished": 1,
    }  # fmt: skip
    assert again(folder)["planned"] == 43, "a quarantined file that did not change is not tried again"


def test_training_sees_the_last_version_only(folder: Path) -> None:
    archive = folder / "archive"
    (archive / "00003.dcm").write_bytes((archive / "00003.dcm").read_bytes() + b"\0\0")
    (archive / "00005.dcm").write_bytes(b"no image any more")
    again(folder)
    pack_images(folder / "samples", folder / "cache", LABELS)
    uids = open_training_set(folder / "samples", folder / "cache", HAND_AGE).uids_N.tolist()
    assert len(uids) == len(set(uids)) == 38, "two changed ones fall out: one has no label here, one no image"


def test_without_incremental_new_files_wait(folder: Path) -> None:
    (folder / "archive" / "00050.dcm").write_bytes(b"new")
    listing = begun(spec_of(folder))
    plan = to_do(spec_of(folder), listing)
    assert plan.num_rows == 40
    assert waiting(plan, listing) == {"waiting_for_incremental": {"new": 1}}


def test_a_killed_growth_goes_on(folder: Path) -> None:
    archive, spec = folder / "archive", spec_of(folder)
    for number in range(50, 90):
        (archive / f"{number:05d}.dcm").write_bytes((archive / "00000.dcm").read_bytes())
    plan = to_do(spec, begun(spec), incremental=True)  # and killed before any shard
    assert ledger.missing_shards(spec.folder, plan) == [3, 4, 5]
    assert not read_json(spec.folder / "manifest.json")["complete"]
    (archive / "00090.dcm").write_bytes((archive / "00001.dcm").read_bytes())
    assert again(folder) == {"planned": 81, "samples": 81, "filtered": 0, "quarantined": 0}
    verification.verify(spec.folder)


def test_a_plan_may_only_grow(folder: Path) -> None:
    spec = spec_of(folder)
    plan = sources.plan(spec.source, 16)
    with pytest.raises(ledger.LedgerError, match="may grow, never change"):
        ledger.grow_plan(spec.folder, plan.slice(1), {})
