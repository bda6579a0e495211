"""``osteoray compare`` on run folders: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from engine.errors import TableError, TrainingError
from engine.report.compared import comparison_page
from jobs.compare import FACTS_NAME, PAGE_NAME, compare
from tests.fixtures.report_fixture import BACKBONE, RECIPE, HeldOut, Page, write_run

PLAN = {
    "data": {"plan_sha256": "p", "sha256": "d"},
    "status": "done",
    "gigaflops": 0.03,
    "model": {"backbone": BACKBONE},
}


def run_with(folder: Path, error: float, **changes: Any) -> Path:
    rows = [
        HeldOut(
            uid=f"u{i}", truth=40 + 6 * i, predicted=40 + 6 * i + error * (1 + 0.1 * (i % 3)), sex="FM"[i % 2]
        )
        for i in range(24)
    ]
    return write_run(folder, rows, **{**PLAN, **changes})


def compared(
    capsys: pytest.CaptureFixture[str], a: Path, b: Path, out: Path, teacher: Path | None = None
) -> tuple[dict[str, Any], dict[str, Any], Page]:
    with pytest.raises(typer.Exit) as end:
        compare(a, b, out, teacher=teacher, json=True)
    assert end.value.exit_code == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    return summary, json.loads((out / FACTS_NAME).read_text()), Page((out / PAGE_NAME).read_text())


def test_a_distilled_student_against_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_itself = {**RECIPE, "distill": {}}
    student, alone = run_with(tmp_path / "student", 7), run_with(tmp_path / "alone", 10, recipe=by_itself)
    teacher = run_with(tmp_path / "teacher", 5)
    summary, facts, page = compared(capsys, student, alone, tmp_path / "out", teacher)
    assert summary["difference"] == pytest.approx(-3.3, abs=1e-3)
    assert summary["gap_closed"] == pytest.approx(0.6)
    assert facts["taught_by"]["name"] == "teacher"
    assert facts["same_split"] is True
    assert page.row("All")[1:4] == ["24", "7.70", "11.00"]
    assert page.row("All")[-1] == "A is better"
    assert page.row("Female †")[1] == "12"
    assert "A closes 60 % of the gap" in page.text
    assert page.row("B")[-1] or page.has_row("B")
    assert "Not the same held-out images" not in page.text
    assert page.text.count("For research use only.") == 2
    assert page.tags.isdisjoint({"script", "iframe", "form", "link"})


def test_a_group_stands_up_to_the_other_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run_with(tmp_path / "a", 7), run_with(tmp_path / "b", 10)
    _, facts, _ = compared(capsys, a, b, tmp_path / "out")
    female = next(row for row in facts["differences"] if row["group"] == "female")
    female["p_holm"] = 0.066
    facts["differences"][0]["p_holm"] = 0.066
    page = Page(comparison_page(facts, title="A against B"))
    assert page.row("All")[-1] == "A is better"
    assert page.row("Female †")[-1] == "no difference can be claimed"
    assert page.row("Male †")[-1] == "A is better"


def test_without_a_teacher_and_with_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run_with(tmp_path / "a", 3)
    b = run_with(tmp_path / "b", -3, data={"plan_sha256": "q"})
    summary, facts, page = compared(capsys, a, b, tmp_path / "out")
    assert "gap_closed" not in summary
    assert facts["same_split"] is False
    assert page.row("All")[-1] == "no difference can be claimed"
    assert "Not the same held-out images" in page.text
    assert "Against the teacher" not in page.text


def test_other_held_out_images_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = run_with(tmp_path / "a", 3)
    fewer = [HeldOut(uid=f"u{i}", truth=40 + 6 * i, predicted=50 + 6 * i, sex="F") for i in range(9)]
    summary, facts, page = compared(capsys, a, write_run(tmp_path / "b", fewer, **PLAN), tmp_path / "out")
    assert (summary["instances"], facts["not_in_both"]) == (9, 15)
    assert facts["same_split"] is False
    assert "15 images held out by one run alone are not counted" in page.text


def test_what_cannot_be_compared_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    done, out = run_with(tmp_path / "done", 3), tmp_path / "out"
    with pytest.raises(TrainingError, match="has not finished"):
        compare(done, run_with(tmp_path / "running", 3, status="running"), out)
    with pytest.raises(TableError, match="cannot be read as held-out"):
        compare(done, write_run(tmp_path / "empty", **PLAN), out)
    other = write_run(tmp_path / "other", [HeldOut(uid="x", truth=9, predicted=9)], **PLAN)
    with pytest.raises(TableError, match="no held-out instance"):
        compare(done, other, out)
    assert not out.exists()
