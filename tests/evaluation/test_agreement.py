"""Bland-Altman and ICC against values computed by hand and against the paper's own example."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.evaluation import metrics
from engine.evaluation.agreement import ICC, bland_altman, icc_2_1, t_quantile

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Table 2 of Shrout and Fleiss 1979: six targets, four judges."""


def test_icc_of_shrout_and_fleiss() -> None:
    # their table 3 and 4: MSR 11.24, MSC 32.49, MSE 1.02, ICC(2,1) = .29
    assert icc_2_1(SHROUT_FLEISS) == pytest.approx(0.2898, abs=5e-5)


def test_icc_of_two_raters_by_hand() -> None:
    # rows 1, 2, 3 rated (1, 2), (2, 3), (3, 4): MSR 2, MSC 1.5, MSE 0, so 2 / (2 + 0 + 2 * 1.5 / 3)
    assert icc_2_1([[1, 2], [2, 3], [3, 4]]) == pytest.approx(2 / 3)


def test_icc_punishes_a_constant_error_and_is_one_without_error() -> None:
    truth_N = np.linspace(20, 200, 50)
    assert icc_2_1(np.stack([truth_N, truth_N], axis=1)) == pytest.approx(1.0)
    shifted = [icc_2_1(np.stack([truth_N, truth_N + shift], axis=1)) for shift in (5, 20, 80)]
    assert 1 > shifted[0] > shifted[1] > shifted[2]


@pytest.mark.parametrize("ratings", [[[1.0, 2.0]], [[1.0], [2.0]], [[3.0, 3.0], [3.0, 3.0]]])
def test_icc_of_too_little_is_nan(ratings: list[list[float]]) -> None:
    assert math.isnan(icc_2_1(ratings))


def test_icc_refuses_what_is_no_table() -> None:
    with pytest.raises(ValueError, match="must be"):
        icc_2_1([1.0, 2.0])


def test_the_statistic_for_the_bootstrap_is_the_same_icc() -> None:
    generator = np.random.default_rng(0)
    truth_N = generator.uniform(20, 200, 40)
    pairs_N2 = np.stack([truth_N + generator.normal(4, 9, 40), truth_N], axis=1)
    means_1F = ICC.terms(pairs_N2).mean(axis=0, keepdims=True)
    assert ICC.finish(means_1F, np.array([40.0]))[0] == pytest.approx(icc_2_1(pairs_N2))
    interval = metrics.bootstrap_by_patient(pairs_N2, np.arange(40), statistic=ICC)
    assert interval.low < icc_2_1(pairs_N2) < interval.high


def test_agreement_of_nothing_is_nan() -> None:
    agreement = bland_altman([], [])
    assert agreement.instances == 0
    assert math.isnan(agreement.bias)
    assert math.isnan(agreement.upper_interval.high)


def test_bland_altman_by_hand() -> None:
    agreement = bland_altman([11, 22, 33, 44], [10, 20, 30, 40])
    sd, t = math.sqrt(5 / 3), 3.182446  # t table, 3 degrees of freedom
    assert agreement.bias == 2.5
    assert agreement.sd == pytest.approx(sd)
    assert agreement.lower_limit == pytest.approx(2.5 - 1.96 * sd)
    assert agreement.upper_limit == pytest.approx(2.5 + 1.96 * sd)
    assert agreement.bias_interval.high - 2.5 == pytest.approx(t * sd / 2, rel=2e-3)
    half_width = t * sd * math.sqrt(1 / 4 + 1.96**2 / 6)
    assert agreement.upper_interval.high - agreement.upper_limit == pytest.approx(half_width, rel=2e-3)
    assert agreement.lower_limit - agreement.lower_interval.low == pytest.approx(half_width, rel=2e-3)


def test_proportional_bias_of_a_prediction_that_is_half_the_truth() -> None:
    truth = np.arange(10.0)
    agreement = bland_altman(truth / 2, truth)
    assert agreement.slope == pytest.approx(-2 / 3)  # error -t/2 against mean 3t/4
    assert agreement.slope_interval.low == pytest.approx(-2 / 3)


def test_proportional_bias_interval_by_hand() -> None:
    # means 0, 1, 2, 3 and errors 0, 1, 0, 1: slope 0.2, residual squares 0.8, Sxx 5, 2 degrees of freedom
    means, errors = np.arange(4.0), np.array([0.0, 1, 0, 1])
    agreement = bland_altman(means + errors / 2, means - errors / 2)
    assert agreement.slope == pytest.approx(0.2)
    assert agreement.slope_interval.high == pytest.approx(0.2 + 4.302653 * math.sqrt(0.8 / 2 / 5))
    assert not agreement.slope_interval.excludes_zero


def test_one_instance_or_one_age_has_no_slope() -> None:
    assert math.isnan(bland_altman([3], [1]).slope)
    assert math.isnan(bland_altman([5, 5, 5], [5, 5, 5]).slope)


@pytest.mark.parametrize(
    ("degrees", "table", "within"),
    [
        (1, 12.706205, 1e-6), (2, 4.302653, 1e-6), (3, 3.182446, 2e-3), (4, 2.776445, 4e-4),
        (5, 2.570582, 2e-4), (9, 2.262157, 1e-5), (30, 2.042272, 1e-6), (1000, 1.962339, 1e-6),
    ],
)  # fmt: skip
def test_t_quantile_against_the_table(degrees: int, table: float, within: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(table, rel=within)
    assert t_quantile(0.025, degrees) == pytest.approx(-table, rel=within)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 5), (1.0, 5), (0.975, 0)])
def test_t_quantile_refuses_what_has_none(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(probability, degrees)
