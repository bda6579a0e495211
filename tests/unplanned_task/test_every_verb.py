"""The task goes through every verb, and no line of the engine knows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from engine.serving.app import build_app
from engine.store.files import read_json
from tests.fixtures.outside import require
from tests.fixtures.story import column, osteoray
from tests.unplanned_task.answer import COLUMNS, GRADES
from tests.unplanned_task.phantom import write_archive
from tests.unplanned_task.task import JOINT, SIZE_HW

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # the first test leads the task through all verbs

NAME, COUNT = "ankle-wear", 60
TABLE = f"predictions-{NAME}"


@pytest.fixture(scope="module")
def told(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From an archive to a delivery."""
    told = tmp_path_factory.mktemp("wear")
    archive, samples, teacher, recorded, student, cached, bundle, scores = (
        told / name
        for name in ("archive", "samples", "teacher", "recorded", "student", "cached", "bundle", "scores")
    )
    write_archive(archive, COUNT)
    labels, covariates = told / "labels.csv", told / "covariates.csv"
    one = ("--workers", 1)
    steps = {
        "ingest": ("ingest", archive, "--task", NAME, "--labels", labels, "--covariates", covariates,
                   "--out", samples, "--shard-size", 20),
        "teacher": ("train", "wear-teacher", "--data", samples, "--out", teacher, *one),
        "recorded": ("record-teacher", teacher, "--data", samples, "--out", recorded),
        "student": ("train", "wear-student", "--data", samples, "--out", student, "--teacher", teacher, *one),
        "cached": ("train", "wear-student", "--data", samples, "--out", cached, "--teacher", recorded,
                   "--set", "distill=none", "--set", "distill.kd=1", *one),
        "export": ("export", student, "--out", bundle, "--without-checks"),  # of 3 validation images
        "score": ("score", archive, "--model", bundle, "--covariates", covariates, "--out", scores,
                  "--shard-size", 20),
        "report": ("report", scores, "--labels", labels),
        "report_run": ("report", student),
        "compare": ("compare", student, cached, "--out", told / "compared"),
        "deliver": ("deliver", scores, "--to", told / "results", "--map"),
        "table": ("deliver", scores, "--to", told / "results.csv"),
        "verify": ("verify", scores),
    }  # fmt: skip
    for name, words in steps.items():
        ended = osteoray(*words)
        assert ended.code == 0, (name, ended.facts)
    return told


def test_samples_are_not_square_and_know_what_is_missing(told: Path) -> None:
    names = ["sop_instance_uid", "grade", *JOINT.columns, "c_reactive_protein"]
    rows = column(told / "samples", "samples", names)
    assert len(rows) == COUNT
    assert sum(row["c_reactive_protein"] is None for row in rows) == COUNT // 3
    assert sum(row["joint_left"] is None for row in rows) == COUNT // 4
    assert {row["grade"] for row in rows} == set(range(GRADES))
    part = next((told / "samples").glob("shards/*/samples.parquet"))
    assert pq.read_table(part)["image"].type.shape == list(SIZE_HW)


def test_training_knows_no_other_error_than_the_task(told: Path) -> None:
    run = read_json(told / "student" / "run.json")
    figures = run["evaluation"]["figures"]
    assert figures["headline"]["key"] == "mean_error"
    assert 0 <= figures["headline"]["value"] < GRADES
    assert run["calibration"]["temperature"] in (0.5, 1.0, 2.0, 4.0)
    held = pq.read_table(told / "student" / "evaluation.parquet")
    assert {"truth_grade", "grade", "expected_grade", "entropy"} <= set(held.column_names)
    assert len(held) == COUNT // 5


def test_scores_are_the_columns_of_the_answer(told: Path) -> None:
    parts = [pq.read_table(part) for part in sorted((told / "scores").glob(f"shards/*/{TABLE}.parquet"))]
    assert sum(len(part) for part in parts) == COUNT
    for wanted in COLUMNS:
        field = parts[0].schema.field(wanted.name)
        assert (field.type, field.nullable) == (wanted.type, wanted.nullable)
    rows = column(told / "scores", TABLE, [wanted.name for wanted in COLUMNS])
    for row in rows:
        p_K = np.array([row[f"p_{grade}"] for grade in range(GRADES)])
        assert p_K.sum() == pytest.approx(1, abs=1e-5)
        assert row["grade"] == p_K.argmax()
        assert row["expected_grade"] == pytest.approx(p_K @ np.arange(GRADES), abs=1e-5)


def test_a_served_row_is_the_row_of_the_table(told: Path) -> None:
    client = TestClient(build_app([told / "bundle"]))
    values = dict(line.split(",") for line in (told / "covariates.csv").read_text().split()[1:])
    names = ["path", "sop_instance_uid", "model_sha256", *(wanted.name for wanted in COLUMNS)]
    for row in column(told / "scores", TABLE, names)[::7]:
        data = (told / "archive" / row.pop("path")).read_bytes()
        known = values[row["sop_instance_uid"]]
        given = f'{{"c_reactive_protein": {known or "null"}}}'
        answer = client.post(f"/v1/{NAME}", files={"file": data}, data={"covariates": given})
        assert answer.status_code == 200, answer.text
        assert {name: answer.json()[name] for name in row} == row


def test_reports_hold_the_task_own_blocks(told: Path) -> None:
    for page in (told / "scores" / "report.html", told / "student" / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert "Wear of the ankle" in text
        assert "Grades against truth" in text
        assert "Mean error" in text
        assert "month" not in text.replace("age_months", "")
    assert read_json(told / "compared" / "comparison.json")


def test_what_is_delivered_is_valid(told: Path) -> None:
    require(shutil.which("dciodvfy") is not None, "dciodvfy", "dicom3tools")
    files = sorted((told / "results").rglob("*.dcm"))
    assert len(files) == 2 * COUNT
    for file in files[:6]:
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")], done.stderr
    header = (told / "results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "expected_grade" in header
