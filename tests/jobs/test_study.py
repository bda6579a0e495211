"""The chain of hand-age in small: regions by attention, joined views, a student taught by them, one table."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.store.files import read_json
from engine.store.verification import verify
from jobs.studies import STUDIES
from jobs.study import _chosen, _Place, _steps
from tests.fixtures.story import osteoray

HAND = STUDIES["hand-age"]
SMALL = ("epochs=1", "batch_size=8", "backbone=test_resnet", "precision=f32")


def steps(*only: str, gpu: bool = False, together: bool = False) -> list[list[str]]:
    place = _Place(
        archive=Path("archive"), labels=Path("labels.csv"), out=Path("out"), size=112, workers=2, gpu=gpu,
        together=together, changes=(),
    )  # fmt: skip
    return list(_steps(HAND, _chosen(HAND, list(only)), place))


def test_every_row_has_what_it_is_trained_on_before_it_is_trained() -> None:
    made: set[str] = set()
    for words in steps():
        if words[0] in ("ingest", "join"):
            made.add(words[words.index("--out") + 1])
        if words[0] in ("train", "record-teacher", "regions"):
            assert words[words.index("--data") + 1] in made
        if words[0] == "regions":
            assert words[1] in {"out/runs/O", "out/runs/H"}
    assert made == {f"out/data/{row.views}" for row in HAND.rows}


def test_a_part_of_the_table_needs_a_part_of_the_steps() -> None:
    assert [words[0] for words in steps("O")] == ["ingest", "train"]
    verbs = [words[0] for words in steps("H+R1")]
    assert verbs.count("join") == 1
    assert "record-teacher" not in verbs
    assert "record-teacher" in [words[0] for words in steps("student, kd")]


def test_every_step_is_told_how_the_study_runs() -> None:
    for words in steps(gpu=True, together=True):
        assert ("--gpu" in words) == (words[0] in ("train", "record-teacher"))
        assert ("--together" in words) == (words[0] == "regions")


def test_rows_have_folders_of_their_own() -> None:
    assert len({row.folder for row in HAND.rows}) == len(HAND.rows)
    ended = osteoray(
        "study", "hand-age", "--archive", __file__, "--labels", __file__, "--out", "o", "--only", "H+R3"
    )
    assert ended.code == 2
    assert "did you mean" in ended.facts["message"]


@pytest.mark.ray
@pytest.mark.nightly  # each step has its own test
def test_a_study_ends_in_a_table_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "study"
    words = ["phantom", "--task", "hand-age", "--count", 40, "--size", 96, "--out", archive]
    assert osteoray(*words).code == 0
    changes = [word for change in SMALL for word in ("--set", change)]
    words = [
        "study", "hand-age", "--archive", archive, "--labels", archive / "labels.csv", "--out", out,
        "--size", 64, "--workers", 1, "--only", "O", "--only", "student, kd", *changes,
    ]  # fmt: skip
    assert osteoray(*words).code == 0
    table = read_json(out / "study.json")["rows"]
    assert [row["name"] for row in table] == ["O", "student, kd"]
    assert table[1]["distill"] == {"kd": 1.0}
    assert (out / "study.html").read_text().count("<svg") > 0
    boxes = pq.read_table(out / "boxes-H.parquet")
    assert set(boxes["region"].to_pylist()) == {"hand", "carpals", "metacarpals"}
    assert boxes.num_rows == 3 * 40
    for name in ("O", "H", "R1", "R2", "H+R1+R2"):
        assert verify(out / "data" / name)["samples"] == 40
    weights = out / "runs" / "O" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert osteoray(*words).code == 0
    assert weights.stat().st_mtime_ns == before
    refused = osteoray("export", out / "runs" / "H+R1+R2", "--out", tmp_path / "bundle")
    assert refused.code == 1
    assert "teacher" in refused.facts["message"]
