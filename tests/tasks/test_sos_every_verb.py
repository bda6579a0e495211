"""sos-stage from phantoms to a delivery: the teacher learns from crops, the student sees the whole film."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from engine.serving.app import build_app
from engine.store.files import read_json
from engine.tasks.sos_stage.answer import STAGE, STAGES
from tests.fixtures.story import column, osteoray

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(1800)]

NAME, COUNT = "sos-stage", 52
TABLE = f"predictions-{NAME}"


@pytest.fixture(scope="module")
def chain(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From phantoms to a delivery, with few, short epochs."""
    chain = tmp_path_factory.mktemp("sos")
    archive, whole, crops, teacher, cache, student, bundle, scores = (
        chain / name
        for name in ("archive", "whole", "crops", "teacher", "cache", "student", "bundle", "scores")
    )
    labels, one = archive / "labels.csv", ("--workers", 1)
    few = ("--set", "epochs=1", "--set", "batch_size=8", *one)
    drawn = ("ingest", archive, "--task", NAME, "--labels", labels)
    for words in (
        ("phantom", "--task", NAME, "--count", COUNT, "--size", 192, "--out", archive),
        (*drawn, "--out", whole, "--size", "192x192"),
        (*drawn, "--out", crops, "--crop", labels, "--region", "sos", "--size", "96x96"),
        ("train", "sos-teacher", "--data", crops, "--out", teacher, *few),
        ("record-teacher", teacher, "--data", crops, "--outputs", "logits,dense", "--out", cache),
        ("train", "sos-student", "--data", whole, "--teacher", cache, "--out", student, *few),
        ("export", student, "--out", bundle, "--without-checks"),  # of 16 training images
        ("score", archive, "--model", bundle, "--out", scores),
        ("report", scores, "--labels", labels),
        ("report", student),
        ("compare", student, student, "--out", chain / "compared"),
        ("deliver", scores, "--to", chain / "results", "--map"),
        ("deliver", scores, "--to", chain / "results.csv"),
        ("verify", scores),
    ):
        ended = osteoray(*words)
        assert ended.code == 0, (words, ended.facts)
    return chain


def test_the_teacher_saw_crops_and_the_student_was_taught_where_they_lie(chain: Path) -> None:
    assert all(row["crop_ok"] for row in column(chain / "crops", "samples", ["crop_ok"]))
    logged = (chain / "student" / "metrics.jsonl").read_text(encoding="utf-8")
    for term in ("kd", "spatial", "gradcam"):
        assert f'"term/{term}/raw"' in logged
    assert (
        read_json(chain / "student" / "run.json")["evaluation"]["figures"]["headline"]["key"]
        == "mean_stage_error"
    )


def test_a_served_row_is_the_row_of_the_table(chain: Path) -> None:
    client = TestClient(build_app([chain / "bundle"]))
    names = ["path", "sop_instance_uid", "model_sha256", *(column.name for column in STAGE.columns)]
    rows = column(chain / "scores", TABLE, names)
    assert len(rows) == COUNT
    for row in rows[::9]:
        assert sum(row[f"p_{stage}"] for stage in range(STAGES)) == pytest.approx(1, abs=1e-5)
        data = (chain / "archive" / row.pop("path")).read_bytes()
        answer = client.post(f"/v1/{NAME}", files={"file": data})
        assert answer.status_code == 200, answer.text
        assert {name: answer.json()[name] for name in row} == row
