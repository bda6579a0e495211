"""Withheld scores, drift and a change of model, as the pages tell them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.errors import UsageError
from engine.report.build import score_report
from engine.report.changed import changed_page
from engine.report.drift import bin_shares, drift, stability_index
from engine.tasks.ages.answer import AGE
from tests.fixtures.report_fixture import Page, Rejected, Scored, write_score
from tests.fixtures.story import osteoray

DECILES = [10.0 * place for place in range(11)]


def test_shares_of_the_validation_split_itself_are_tenths() -> None:
    values_N = np.random.default_rng(0).normal(100, 30, 5000)
    shares_B = bin_shares(values_N, np.percentile(values_N, range(0, 101, 10)).tolist())
    assert shares_B == pytest.approx(np.full(10, 0.1), abs=1e-3)
    assert stability_index(shares_B) == pytest.approx(0, abs=1e-3)


def test_values_on_a_decile_are_spread_over_the_bins_that_share_it() -> None:
    assert bin_shares(np.array([20.0, 20.0]), DECILES).tolist() == [0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]
    assert bin_shares(np.array([5.0]), [5.0] * 11) == pytest.approx(np.full(10, 0.1))


def test_values_beyond_the_ends_are_in_the_outer_bins() -> None:
    assert bin_shares(np.array([-5.0, 500.0]), DECILES).tolist() == [0.5, *[0] * 8, 0.5]


def test_a_known_index() -> None:
    shares_B = np.array([0.2, 0.0, *[0.1] * 8])
    by_hand = 0.1 * np.log(2) + (0.001 - 0.1) * np.log(0.01)
    assert stability_index(shares_B) == pytest.approx(by_hand)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "stable"), (25.0, "shifted")])
def test_a_planted_shift_is_found(shift: float, verdict: str) -> None:
    grid_N = np.linspace(0, 100, 400)
    frame = pl.DataFrame({"predicted_months": grid_N + shift, "sd_months": grid_N})
    found = drift(frame, AGE, {"validation_value": DECILES, "validation_doubt": DECILES})
    assert found is not None
    assert [row["verdict"] for row in found["rows"]] == [verdict, "stable"]
    assert not found["is_small"]


@pytest.mark.parametrize("calibration", [None, {}, {"validation_value": []}])
def test_a_model_without_deciles_has_no_drift(calibration: dict[str, object] | None) -> None:
    assert drift(pl.DataFrame({"predicted_months": [1.0], "sd_months": [1.0]}), AGE, calibration) is None


def test_withheld_scores_are_listed_with_their_reason(tmp_path: Path) -> None:
    withheld = [Rejected(path="odd.dcm", reason="inverted", code="ORY-A04")]
    scores = write_score(tmp_path / "s", [Scored(uid="a", predicted=90)], abstained=withheld)
    manifest = json.loads((scores / "manifest.json").read_text())
    manifest["models"][0]["calibration"] = {"validation_value": DECILES, "validation_doubt": DECILES}
    (scores / "manifest.json").write_text(json.dumps(manifest))
    page = Page(score_report(scores, labels=None, compare={}, images=None))
    assert page.row("Tables")[1:] == ["2", "1", "0", "1", "0", "0"]
    assert "The scores of 1 are withheld" in page.text
    assert "black and white seem to be exchanged" in page.text
    assert "too few scored images to tell a shift" in page.text


def two_models(root: Path) -> tuple[Path, Path]:
    before = [Scored(uid=f"1.{n}", predicted=100.0, sex="FM"[n % 2]) for n in range(6)]
    after = [Scored(uid=f"1.{n}", predicted=100.0 + 5 * n, model_sha256="cd" * 32) for n in range(5)]
    withheld = [Rejected(path="1.5.dcm", reason="uncertain", code="ORY-A05")]
    return write_score(root / "a", before), write_score(root / "b", after, abstained=withheld)


def test_changes_between_two_models_are_joined_by_uid(tmp_path: Path) -> None:
    page, changes = changed_page(*two_models(tmp_path))
    assert changes["instances"] == 5
    assert changes["rows"][0]["mean"] == changes["rows"][0]["mean_absolute"] == 10.0
    assert changes["rows"][0]["percentiles"] == pytest.approx((10, 18, 19, 19.8))  # of 0, 5, 10, 15, 20
    assert [mover["change"] for mover in changes["movers"]] == [20.0, 15.0, 10.0, 5.0, 0.0]
    assert changes["moved"] == [("scored", "scored", 5), ("scored", "abstained", 1)]
    assert "…1.4" in page
    assert ".dcm" not in page  # a file may be called as the patient is


def test_compare_takes_score_folders_too(tmp_path: Path) -> None:
    a, b = two_models(tmp_path)
    ended = osteoray("compare", a, b, "--out", tmp_path / "out")
    assert (ended.code, ended.facts["instances"], ended.facts["mean_absolute"]) == (0, 5, 10.0)
    facts = json.loads((tmp_path / "out/comparison.json").read_text())
    assert {"a": "scored", "b": "abstained", "instances": 1} in facts["outcomes"]
    assert "<script" not in (tmp_path / "out/comparison.html").read_text()


def test_scores_of_two_tasks_or_without_a_common_instance_are_refused(tmp_path: Path) -> None:
    a = write_score(tmp_path / "a", [Scored(uid="1", predicted=9)])
    other = write_score(tmp_path / "b", [Scored(uid="1", predicted=9)], task="knee-age")
    with pytest.raises(UsageError, match="two tasks"):
        changed_page(a, other)
    with pytest.raises(UsageError, match="no instance"):
        changed_page(a, write_score(tmp_path / "c", [Scored(uid="2", predicted=9)]))
