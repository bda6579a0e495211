"""A task of series: slices in order, one sample a series, and every file ends once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import UsageError
from engine.imaging.preprocess import View
from engine.ingest.instance import InputRule, rule_from_facts
from engine.ingest.series import nearest_slices
from engine.ingest.shard import ReadSpec, read_rows, read_shard
from engine.sources.listing import Entry, listed, planned, together
from engine.store import ledger
from engine.store.labels import Label, Labels
from engine.store.schema import tensor_values
from engine.store.verification import verify
from engine.tasks.hand_age import HAND_AGE
from engine.training.dataset import _images, pack_images
from jobs.plan import require_instances
from tests.fixtures import night_fixture
from tests.fixtures.night_fixture import night, steps_of
from tests.fixtures.series_fixture import LONG, RULE, SHORT, SLICES, write_series

ENDS = {"samples": 2, "filtered": 5, "quarantined": 2, "grouped": 10}
FILM_RULE = InputRule(sop_classes=("1.2.840.10008.5.1.4.1.1.1.1",), view=View(size_HW=(8, 6)))


def spec_of(root: Path, *rules: InputRule, **more: Any) -> ReadSpec:
    return ReadSpec(
        source=str(root / "in"), folder=root / "out", rules=rules or (RULE,), salt=bytes(32), isolation=None,
        **more,
    )  # fmt: skip


def run(root: Path) -> dict[str, int]:
    spec = spec_of(root)
    return night(root, read=lambda _, rows: read_shard(rows, spec), shard_size=4)


def tables(root: Path, name: str) -> pa.Table:
    return pa.concat_tables([ledger.read_table(path) for path in ledger.tables_of(root / "out", name)])


@pytest.fixture(autouse=True)
def _series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night_fixture, "spec_of", spec_of)


def test_a_series_is_one_sample_and_every_file_ends_once(tmp_path: Path) -> None:
    expected = write_series(tmp_path / "in")
    counts = run(tmp_path)
    assert counts == {"planned": 19, **ENDS}
    assert verify(tmp_path / "out") == counts
    found = {
        row["path"]: (name, row.get("reason", ""))
        for name in ("samples", "filtered", "quarantine", "grouped")
        for row in tables(tmp_path, name).to_pylist()
    }
    assert found == expected
    samples = tables(tmp_path, "samples").sort_by("series_instance_uid")
    assert samples["sop_instance_uid"].to_pylist() == [f"{LONG}.100", f"{SHORT}.50"]
    images = tensor_values(samples["image"])
    assert images.shape == (2, SLICES, 8, 6)
    # 0, 6, 12 and 18 mm of ten slices 2 mm apart; of two slices the nearest to 0, 1/3, 2/3 and 1 mm
    assert images[:, :, 4, 3].tolist() == [[100, 103, 106, 109], [50, 50, 51, 51]]
    assert (images == images[:, :, :1, :1]).all()
    grouped = tables(tmp_path, "grouped").to_pylist()
    assert {row["series_instance_uid"] for row in grouped} == {LONG, SHORT}
    assert {row["sop_instance_uid"] for row in grouped} >= {f"{LONG}.109", f"{SHORT}.51"}
    assert {row["code"] for row in grouped} == {"ORY-F09"}


def test_a_series_lies_in_one_shard_whatever_its_files_are_called(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    run(tmp_path)
    plan = ledger.read_plan(tmp_path / "out").to_pylist()
    shard_of = {row["path"]: row["shard"] for row in plan}
    assert len({shard_of[f"{n}.dcm"] for n in range(10)}) == 1
    assert shard_of["1a.dcm"] == shard_of["6a.dcm"] == shard_of["2cut.dcm"]
    assert len(set(shard_of.values())) > 2
    assert [row["instance_index"] for row in plan] == list(range(19))


def test_killed_anywhere_and_resumed_it_ends_alike(tmp_path: Path) -> None:
    write_series(tmp_path / "whole" / "in")
    counts = run(tmp_path / "whole")
    steps = steps_of(lambda: run_again(tmp_path / "counted"))
    assert steps > 5
    for step in range(2, steps, 3):
        root = tmp_path / str(step)
        assert steps_of(lambda root=root: run_again(root), die_at=step) == -9  # type: ignore[misc]
        assert run(root) == counts == verify(root / "out")
        for name in ("samples", "filtered", "quarantine", "grouped"):
            assert tables(root, name).equals(tables(tmp_path / "whole", name))


def run_again(root: Path) -> None:
    write_series(root / "in")
    run(root)


def test_a_film_and_a_series_of_one_archive_each_go_to_their_task(tmp_path: Path) -> None:
    expected = write_series(tmp_path / "in")
    spec = spec_of(tmp_path, RULE, FILM_RULE, tasks=("spine", "film"))
    rows = read_rows(plan_rows(spec), spec).to_pylist()
    of_spine = {
        row["path"]: row["table"] for row in rows if row["task"] in (None, "spine") and row["rule"] != 1
    }
    assert of_spine == {path: table for path, (table, _) in expected.items()}
    of_film = {
        row["path"]: row["table"] for row in rows if row["task"] in (None, "film") and row["rule"] != 0
    }
    assert {path for path, table in of_film.items() if table == "samples"} == {"3film.dcm"}
    assert len(of_film) == len(expected)
    sizes = {row["path"]: len(row["image"]) for row in rows if row["image"]}
    assert sizes == {"0.dcm": SLICES * 48, "6a.dcm": SLICES * 48, "3film.dcm": 48}


def plan_rows(spec: ReadSpec) -> list[dict[str, Any]]:
    names = sorted(path.name for path in Path(spec.source).iterdir())
    return planned(listed(Entry(name, 1) for name in names), 100).to_pylist()


def test_labels_may_name_any_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    spec = spec_of(
        tmp_path, label_names=("grade",), labels=Labels({f"{LONG}.104": {"grade": 3.0}}, {}),
        covariate_names=("calcium",), covariates={f"{LONG}.109": {"calcium": 2.5}},
    )  # fmt: skip
    found = read_shard(plan_rows(spec), spec)
    (sample,) = found["samples"].to_pylist()
    assert (sample["grade"], sample["calcium"]) == (3.0, 2.5)
    assert ("6a.dcm", "no_label") in [(row["path"], row["reason"]) for row in found["filtered"].to_pylist()]
    assert sum(table.num_rows for table in found.values()) == 19


def test_training_reads_the_slices_as_views(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    given = Labels({f"{LONG}.100": {"grade": 1.0}, f"{SHORT}.50": {"grade": 2.0}}, {})
    spec = spec_of(tmp_path, label_names=("grade",), labels=given)
    night(tmp_path, read=lambda _, rows: read_shard(rows, spec), shard_size=4)
    pack_images(tmp_path / "out", tmp_path / "cache", (Label(name="grade", kind="class"),))
    images_NVHW = _images(tmp_path / "out", tmp_path / "cache", 2, is_hidden=False)
    assert sorted(images_NVHW[:, :, 4, 3].tolist()) == [[50, 50, 51, 51], [100, 103, 106, 109]]


def test_slices_are_the_nearest_to_evenly_spread_places() -> None:
    uneven = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    assert nearest_slices(uneven, 3).tolist() == [0, 3, 4]
    assert nearest_slices(uneven, 1).tolist() == [3]
    assert nearest_slices(uneven[:1], 3).tolist() == [0, 0, 0]
    assert nearest_slices(uneven[:2], 5).tolist() == [0, 0, 0, 1, 1]


def test_members_of_a_series_are_put_together() -> None:
    entries = [Entry("a", 1, "x"), Entry("b", 1), Entry("c", 1, "y"), Entry("d", 1, "x"), Entry("e", 1, "y")]
    assert together(listed(entries))["path"].to_pylist() == ["a", "d", "b", "c", "e"]


def test_a_rule_of_series_says_how_many_slices() -> None:
    assert rule_from_facts(RULE.facts()) == RULE
    assert RULE.image_shape == (SLICES, 8, 6)
    assert "grain" not in FILM_RULE.facts()
    assert FILM_RULE.image_shape == (8, 6)
    with pytest.raises(UsageError, match="how many slices"):
        InputRule(sop_classes=(), view=RULE.view, grain="series")


def test_what_takes_files_one_by_one_is_refused() -> None:
    require_instances([HAND_AGE.rule], incremental=True)
    require_instances([RULE], incremental=False, retry=None)
    with pytest.raises(UsageError, match="--retry takes files one by one"):
        require_instances([HAND_AGE.rule, RULE], incremental=False, retry=("pixel_decode",))
