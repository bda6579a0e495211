"""The page of a judged run: what its intervals are worth, and the cases it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import TableError
from engine.evaluation.held_out import held_out_table, write_held_out
from engine.report.build import run_report
from engine.store.schema import tensor_column
from engine.tasks.ages.calibration import coverage
from engine.training.run_folder import CASES_NAME, EVALUATION_NAME
from tests.fixtures.judged_fixture import CALIBRATION, judged_facts, made_predictions
from tests.fixtures.report_fixture import Page, decoded, write_run


def judged_run(folder: Path, **changes: Any) -> Path:
    held = made_predictions()
    write_run(folder, **{**judged_facts(held), **changes})
    write_held_out(held, folder / EVALUATION_NAME)
    kept = held.chosen(np.arange(3))
    images_NHW = np.full((3, 32, 32), 90, np.uint8)
    maps_Nhw = np.zeros((3, 4, 4), np.uint8)
    maps_Nhw[1] = 255
    table = held_out_table(kept).append_column("image", tensor_column(images_NHW))
    table = table.append_column("attention_map", tensor_column(maps_Nhw))
    pq.write_table(table, folder / CASES_NAME)
    return folder


def test_coverage_is_shown_by_group_and_level(tmp_path: Path) -> None:
    held = made_predictions()
    page = Page(run_report(judged_run(tmp_path / "run")))
    facts = coverage(held, CALIBRATION)
    whole = next(row for row in facts["levels"] if (row["level"], row["kind"]) == (0.9, "sd"))
    found = [row for row in page.rows if row[:2] == ["All", "60"] and len(row) == 5]
    assert found[0][2] == f"{100 * whole['covered']:.1f}"
    assert found[0][4] == f"± {whole['half_width_months']:.1f}"
    assert any(row[:2] == ["Female", "30"] and len(row) == 5 for row in page.rows)
    assert page.row("95 %")[1] == "multiple of the sd"
    assert not [row for row in page.rows if row[:2] == ["95 %", "same for all"]]
    assert "temperature 1.80" in page.text
    assert "is not applied" in page.text
    assert page.row("Agreement for one image, ICC(2,1)")[1].startswith("0.9")
    assert page.row("Error of always guessing the mean training age")[1].endswith("months")
    assert "fitted on 120 images of the validation split" in page.text


def test_kept_cases_are_shown_with_their_own_map(tmp_path: Path) -> None:
    page = Page(run_report(judged_run(tmp_path / "run")))
    pictures = [decoded(link) for link in page.links if link.startswith("data:")]
    assert len(pictures) == 6
    coloured = [int(np.ptp(picture.astype(int), axis=2).max()) for picture in pictures]
    assert [value > 0 for value in coloured] == [False, False, False, True, False, False]
    assert "Where the network looks" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_a_split_too_small_for_intervals_and_a_run_without_cases_say_so(tmp_path: Path) -> None:
    nothing: dict[str, float | None] = dict.fromkeys(CALIBRATION.by_sd)
    bare = {**CALIBRATION.facts(), "by_sd": nothing, "by_months": nothing}
    facts = judged_facts(made_predictions(), type(CALIBRATION)(**bare))
    run = judged_run(tmp_path / "run", **facts)
    (run / CASES_NAME).unlink()
    page = Page(run_report(run))
    assert "The validation split is too small for any of them" in page.text
    assert "Where the network looks" not in page.text


def test_a_damaged_table_of_cases_is_refused(tmp_path: Path) -> None:
    run = judged_run(tmp_path / "run")
    table = pq.read_table(run / CASES_NAME)
    pq.write_table(table.drop_columns(["image"]), run / CASES_NAME)
    with pytest.raises(TableError, match="has no column image"):
        run_report(run)
