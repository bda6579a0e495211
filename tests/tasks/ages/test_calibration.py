"""Temperature, conformal intervals and the linear bias against known truth and hand-computed values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engine.evaluation.conformal import conformal_quantile
from engine.evaluation.held_out import HeldOut
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH
from engine.tasks.ages.calibration import (
    LEVEL,
    Calibration,
    calibration_from_facts,
    coverage,
    fit_calibration,
    fit_temperature,
    linear_bias,
    negative_log_likelihood,
    tempered_sd,
)
from engine.tasks.ages.figures import figures

BINS = 240


def held_out(truth: np.ndarray, predicted: np.ndarray, sd: np.ndarray) -> HeldOut:
    num = len(truth)
    return HeldOut(
        uids_N=np.array([f"1.2.{i}" for i in range(num)]),
        patients_N=np.array([f"p{i}" for i in range(num)]),
        sexes_N=np.array(["F", "M"] * num)[:num],
        age_months_N=np.full(num, np.nan, np.float32),
        truth={TRUTH: truth.astype(np.float32)},
        predicted={PREDICTED: predicted.astype(np.float32), SD: sd.astype(np.float32)},
    )


def cohort(num: int, *, claimed: float, seed: int) -> tuple[HeldOut, np.ndarray]:
    """Errors of sd 8 months by a net that claims ``claimed`` months, with the logits that say so."""
    generator = np.random.default_rng(seed)
    predicted = generator.uniform(50, 190, num)
    truth = predicted + generator.normal(0, 8, num)
    months = np.arange(1, BINS + 1)
    logits = -((months[None] - predicted[:, None]) ** 2) / (2 * claimed**2)
    return held_out(truth, predicted, np.full(num, claimed)), logits.astype(np.float32)


def test_negative_log_likelihood_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    assert negative_log_likelihood(logits, [2], 1.0) == pytest.approx(-math.log(0.3))
    assert negative_log_likelihood(logits, [1.5], 1.0) == pytest.approx(-math.log(0.4))
    assert negative_log_likelihood(logits, [0.2], 1.0) == pytest.approx(-math.log(0.5))
    assert negative_log_likelihood(logits, [9], 1.0) == pytest.approx(-math.log(0.2))
    # temperature 0.5 squares the odds: 0.25 / (0.25 + 0.09 + 0.04)
    assert negative_log_likelihood(logits, [1], 0.5) == pytest.approx(-math.log(0.25 / 0.38))


def test_tempered_sd_of_a_gaussian_grows_with_the_root_of_the_temperature() -> None:
    _, logits = cohort(3, claimed=6, seed=0)
    assert tempered_sd(logits, 1.0) == pytest.approx([6, 6, 6], rel=1e-3)
    assert tempered_sd(logits, 4.0) == pytest.approx([12, 12, 12], rel=1e-3)


@pytest.mark.parametrize("claimed", [4.0, 8.0, 14.0])
def test_the_temperature_brings_the_sd_to_the_errors_actually_made(claimed: float) -> None:
    held, logits = cohort(3000, claimed=claimed, seed=1)
    temperature = fit_temperature(logits, held.truth[TRUTH], held.patients_N)
    assert tempered_sd(logits, temperature).mean() == pytest.approx(8, rel=0.05)
    assert negative_log_likelihood(logits, held.truth[TRUTH], temperature) <= negative_log_likelihood(
        logits, held.truth[TRUTH], 1.0
    )


def test_a_temperature_that_does_not_carry_over_is_refused() -> None:
    # one half is far surer than its errors, the other far less: what suits one harms the other
    sure, logits_sure = cohort(40, claimed=1, seed=2)
    unsure, logits_unsure = cohort(40, claimed=60, seed=3)
    logits = np.stack([logits_sure, logits_unsure], axis=1).reshape(80, BINS)
    truth = np.stack([unsure.truth[TRUTH], unsure.truth[TRUTH]], axis=1).reshape(80)
    truth[::2] = sure.truth[TRUTH]
    patients = np.array([f"{i:03}" for i in range(80)])
    assert fit_temperature(logits, truth, patients) == 1.0
    assert fit_temperature(logits[:1], truth[:1], patients[:1]) == 1.0


def test_conformal_quantile_by_hand() -> None:
    scores = np.array([5.0, 1, 4, 2, 3, 9, 8, 7, 6])
    assert conformal_quantile(scores, 0.8) == 8.0  # (9 + 1) * 0.8 = 8th smallest
    assert conformal_quantile(scores, 0.9) == 9.0
    assert conformal_quantile(scores, 0.95) is None
    assert conformal_quantile(np.zeros(0), 0.8) is None


def test_conformal_intervals_cover_new_instances_as_claimed_whatever_the_net_claims() -> None:
    shares = []
    for seed in range(16):
        held, logits = cohort(200, claimed=3, seed=seed)
        fresh, _ = cohort(500, claimed=3, seed=1000 + seed)
        calibration = fit_calibration(held, logits)
        sd = np.full(500, tempered_sd(logits, calibration.temperature).mean())
        low, high = calibration.interval(fresh.predicted[PREDICTED], sd) or (None, None)
        shares.append(((low <= fresh.truth[TRUTH]) & (fresh.truth[TRUTH] <= high)).mean())
    # the mean over 16 draws of 200, whose own sd is 0.006
    assert LEVEL - 0.02 < np.mean(shares) < LEVEL + 0.03


def test_an_interval_never_begins_before_birth_nor_hides_behind_a_tiny_sd() -> None:
    calibration = Calibration(
        instances=9, temperature=1.0, by_sd={"0.9": 2.0}, by_months={"0.9": 5.0}, slope=0.0, intercept=0.0
    )
    low, high = calibration.interval([3.0, 100.0], [4.0, 0.0]) or (None, None)
    assert low.tolist() == [0.0, 99.0]
    assert high.tolist() == [11.0, 101.0]
    assert calibration.interval([3.0], [4.0], level=0.5) is None


def test_linear_bias_is_found_and_taken_off() -> None:
    predicted = np.linspace(20, 200, 30)
    held = held_out(predicted - (0.1 * predicted - 6), predicted, np.ones(30))
    slope, intercept = linear_bias(held)
    assert (slope, intercept) == (pytest.approx(0.1, abs=1e-5), pytest.approx(-6, abs=1e-3))
    calibration = Calibration(
        instances=30, temperature=1.0, by_sd={}, by_months={}, slope=slope, intercept=intercept
    )
    assert calibration.corrected(held.predicted[PREDICTED]) == pytest.approx(held.truth[TRUTH], abs=1e-3)
    assert linear_bias(held_out(predicted, np.full(30, 9.0), np.ones(30))) == (0.0, 0.0)


def test_facts_come_back_and_are_json() -> None:
    held, logits = cohort(60, claimed=6, seed=5)
    calibration = fit_calibration(held, logits)
    assert calibration_from_facts(json.loads(json.dumps(calibration.facts()))) == calibration
    assert calibration.by_sd["0.95"] is not None
    few, few_logits = cohort(8, claimed=6, seed=5)
    assert fit_calibration(few, few_logits).by_sd["0.9"] is None


def test_coverage_by_level_and_group() -> None:
    calibration = Calibration(
        instances=99, temperature=1.0, slope=0.0, intercept=2.0,
        by_sd={"0.8": 1.0, "0.9": 2.0, "0.95": None}, by_months={"0.8": 1.0, "0.9": 5.0, "0.95": None},
    )  # fmt: skip
    held = held_out(np.array([30.0, 30, 100, 100]), np.array([33.0, 35, 102, 102]), np.full(4, 2.0))
    facts = coverage(held, calibration)
    found = {(row["level"], row["kind"]): row["covered"] for row in facts["levels"]}
    assert found == {(0.8, "sd"): 0.5, (0.8, "months"): 0.0, (0.9, "sd"): 0.75, (0.9, "months"): 1.0}
    groups = {row["group"]: (row["instances"], row["covered"]) for row in facts["subgroups"]}
    assert groups["female"] == (2, 1.0)
    assert groups["male"] == (2, 0.5)
    assert groups["0 to under 5 years"] == (2, 0.5)
    assert facts["subgroups"][0]["half_width_months"] == 4.0
    corrected = next(
        one for one in figures(held, calibration.facts()).more if one.key == "corrected_mae_months"
    )
    assert corrected.value == pytest.approx((1 + 3 + 0 + 0) / 4)
    json.dumps(facts, allow_nan=False)
