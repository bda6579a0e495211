"""Metrics against values computed by hand, and intervals that resample patients."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from engine import metrics
from engine.metrics import Interval


def test_errors_of_four_instances() -> None:
    truth, predicted = [100, 100, 100, 100], [103, 91, 112, 130]
    assert metrics.signed_errors(predicted, truth).tolist() == [3, -9, 12, 30]
    assert metrics.mae(predicted, truth) == 13.5
    assert metrics.rmse(predicted, truth) == pytest.approx(math.sqrt(1134 / 4))


def test_the_bound_of_share_within_counts() -> None:
    assert metrics.share_within([103, 91, 112, 130], [100] * 4, 12) == 0.75
    assert metrics.share_within([103, 91, 112, 130], [100] * 4, 11.9) == 0.5


def test_share_within_sd_takes_each_instances_own_sd() -> None:
    assert metrics.share_within_sd([3, -9, 12, 30], [3, 8, 12, 20], 1) == 0.5
    assert metrics.share_within_sd([3, -9, 12, 30], [3, 8, 12, 20], 1.5) == 1.0


def test_nothing_gives_nan_and_no_warning() -> None:
    assert math.isnan(metrics.mae([], []))
    assert math.isnan(metrics.rmse([], []))
    assert math.isnan(metrics.share_within([], [], 6))
    agreement = metrics.bland_altman([], [])
    assert agreement.instances == 0
    assert math.isnan(agreement.bias)
    assert math.isnan(agreement.upper_interval.high)


@pytest.mark.parametrize(
    ("predicted", "truth"), [([1, 2], [1]), ([[1], [2]], [[1], [2]]), ([1, 2, 3], [[1]])]
)
def test_shapes_that_would_broadcast_are_refused(predicted: list[object], truth: list[object]) -> None:
    with pytest.raises(ValueError, match="must both be"):
        metrics.mae(predicted, truth)


def test_bland_altman_by_hand() -> None:
    agreement = metrics.bland_altman([11, 22, 33, 44], [10, 20, 30, 40])
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
    agreement = metrics.bland_altman(truth / 2, truth)
    assert agreement.slope == pytest.approx(-2 / 3)  # error -t/2 against mean 3t/4
    assert agreement.slope_interval.low == pytest.approx(-2 / 3)


def test_proportional_bias_interval_by_hand() -> None:
    # means 0, 1, 2, 3 and errors 0, 1, 0, 1: slope 0.2, residual squares 0.8, Sxx 5, 2 degrees of freedom
    means, errors = np.arange(4.0), np.array([0.0, 1, 0, 1])
    agreement = metrics.bland_altman(means + errors / 2, means - errors / 2)
    assert agreement.slope == pytest.approx(0.2)
    assert agreement.slope_interval.high == pytest.approx(0.2 + 4.302653 * math.sqrt(0.8 / 2 / 5))
    assert not agreement.slope_interval.excludes_zero


def test_one_instance_or_one_age_has_no_slope() -> None:
    assert math.isnan(metrics.bland_altman([3], [1]).slope)
    assert math.isnan(metrics.bland_altman([5, 5, 5], [5, 5, 5]).slope)


@pytest.mark.parametrize(
    ("degrees", "table", "within"),
    [
        (1, 12.706205, 1e-6), (2, 4.302653, 1e-6), (3, 3.182446, 2e-3), (4, 2.776445, 4e-4),
        (5, 2.570582, 2e-4), (9, 2.262157, 1e-5), (30, 2.042272, 1e-6), (1000, 1.962339, 1e-6),
    ],
)  # fmt: skip
def test_t_quantile_against_the_table(degrees: int, table: float, within: float) -> None:
    assert metrics.t_quantile(0.975, degrees) == pytest.approx(table, rel=within)
    assert metrics.t_quantile(0.025, degrees) == pytest.approx(-table, rel=within)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 5), (1.0, 5), (0.975, 0)])
def test_t_quantile_refuses_what_has_none(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        metrics.t_quantile(probability, degrees)


def test_bootstrap_draws_patients_with_all_their_instances() -> None:
    # Draws of {a, b}: aa -> 0, ab -> 10/4, bb -> 10, with chances 1/4, 1/2, 1/4.
    interval = metrics.bootstrap_by_patient([0, 0, 0, 10], ["a", "a", "a", "b"], statistic=metrics.MEAN)
    assert interval == Interval(low=0.0, high=10.0)


def test_copies_of_an_instance_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(0, 8, 40)
    once = metrics.bootstrap_by_patient(values, np.arange(40), statistic=metrics.MEAN_ABSOLUTE)
    copied = metrics.bootstrap_by_patient(
        np.repeat(values, 10), np.repeat(np.arange(40), 10), statistic=metrics.MEAN_ABSOLUTE
    )
    assert copied.low == pytest.approx(once.low)
    assert copied.high == pytest.approx(once.high)


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(3, 8, 400)
    interval = metrics.bootstrap_by_patient(values, np.arange(400), statistic=metrics.MEAN, draws=4000)
    half_width = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.08)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.08)


def test_bootstrap_does_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    values = np.random.default_rng(3).normal(0, 8, 60)
    patients = np.array([f"p{i % 25}" for i in range(60)])
    order = np.random.default_rng(4).permutation(60)
    first = metrics.bootstrap_by_patient(values, patients, statistic=metrics.MEAN)
    shuffled = metrics.bootstrap_by_patient(values[order], patients[order], statistic=metrics.MEAN)
    other = metrics.bootstrap_by_patient(values, patients, statistic=metrics.MEAN, seed=1)
    assert shuffled.low == pytest.approx(first.low)
    assert other != first


def test_draws_in_blocks_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 7)
    interval = metrics.bootstrap_by_patient([0, 0, 0, 10], list("aaab"), statistic=metrics.MEAN, draws=101)
    assert interval == Interval(low=0.0, high=10.0)


@pytest.mark.parametrize("patients", [[], ["a"], ["a", "a", "a"]])
def test_one_patient_gives_no_interval(patients: list[str]) -> None:
    interval = metrics.bootstrap_by_patient([1.0] * len(patients), patients, statistic=metrics.MEAN)
    assert math.isnan(interval.low)
    assert not interval.excludes_zero


def test_values_and_patients_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must both be"):
        metrics.bootstrap_by_patient([1.0, 2.0], ["a"], statistic=metrics.MEAN)


def test_each_statistic_agrees_with_the_plain_formula() -> None:
    errors = np.array([3.0, -9, 12, 30])
    zeros = np.zeros(4)
    agreement = metrics.bland_altman(errors, zeros)
    expected = {
        metrics.MEAN: agreement.bias,
        metrics.MEAN_ABSOLUTE: metrics.mae(errors, zeros),
        metrics.ROOT_MEAN_SQUARE: metrics.rmse(errors, zeros),
        metrics.LOWER_LIMIT: agreement.lower_limit,
        metrics.UPPER_LIMIT: agreement.upper_limit,
        metrics.share_statistic(12): metrics.share_within(errors, zeros, 12),
    }
    for statistic, value in expected.items():
        means_1F = statistic.terms(errors).mean(axis=0, keepdims=True)
        assert statistic.finish(means_1F, np.array([4.0]))[0] == pytest.approx(value)


def test_paired_difference_of_one_sided_errors() -> None:
    paired = metrics.paired_bootstrap([2, -2, 2], [1, 1, -1], ["a", "b", "c"])
    assert paired.difference == 1.0
    assert paired.interval == Interval(low=1.0, high=1.0)
    assert paired.interval.excludes_zero


def test_paired_difference_that_may_be_chance() -> None:
    paired = metrics.paired_bootstrap([1, 3, 1, 3], [3, 1, 3, 1], list("abcd"))
    assert paired.difference == 0.0
    assert paired.interval.low < 0 < paired.interval.high
    assert not paired.interval.excludes_zero


def test_metrics_import_neither_torch_nor_polars() -> None:
    tree = ast.parse(Path(sys.modules[metrics.__name__].__file__ or "").read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"math", "numpy"}
