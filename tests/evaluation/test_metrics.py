"""Metrics against values computed by hand, and intervals that resample patients."""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation import agreement, metrics
from engine.evaluation.metrics import Interval


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


@pytest.mark.parametrize(
    ("predicted", "truth"), [([1, 2], [1]), ([[1], [2]], [[1], [2]]), ([1, 2, 3], [[1]])]
)
def test_shapes_that_would_broadcast_are_refused(predicted: list[object], truth: list[object]) -> None:
    with pytest.raises(ValueError, match="must both be"):
        metrics.mae(predicted, truth)


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
    limits = agreement.bland_altman(errors, zeros)
    expected = {
        metrics.MEAN: limits.bias,
        metrics.MEAN_ABSOLUTE: metrics.mae(errors, zeros),
        metrics.ROOT_MEAN_SQUARE: metrics.rmse(errors, zeros),
        metrics.LOWER_LIMIT: limits.lower_limit,
        metrics.UPPER_LIMIT: limits.upper_limit,
        metrics.share_statistic(12): metrics.share_within(errors, zeros, 12),
    }
    for statistic, value in expected.items():
        means_1F = statistic.terms(errors).mean(axis=0, keepdims=True)
        assert statistic.finish(means_1F, np.array([4.0]))[0] == pytest.approx(value)


def test_paired_difference_of_one_sided_errors() -> None:
    paired = metrics.paired_bootstrap([2, 2, 2], [1, 1, 1], ["a", "b", "c"])
    assert paired.difference == 1.0
    assert paired.interval == Interval(low=1.0, high=1.0)
    assert paired.interval.excludes_zero


def test_paired_difference_that_may_be_chance() -> None:
    paired = metrics.paired_bootstrap([1, 3, 1, 3], [3, 1, 3, 1], list("abcd"))
    assert paired.difference == 0.0
    assert paired.interval.low < 0 < paired.interval.high
    assert not paired.interval.excludes_zero


def test_the_p_value_goes_with_the_interval() -> None:
    sure = metrics.paired_bootstrap([2, 2, 2], [1, 1, 1], ["a", "b", "c"])
    assert sure.p_value == pytest.approx(2 / 1001)
    unsure = metrics.paired_bootstrap([1, 3, 1, 3], [3, 1, 3, 1], list("abcd"))
    assert unsure.p_value > 0.5
    assert math.isnan(metrics.paired_bootstrap([1], [2], ["a"]).p_value)


def test_two_sided_p_counts_the_rarer_side() -> None:
    assert metrics.two_sided_p(np.array([1.0, 2, 3, -1, 4, 5, 6, 7, 8])) == pytest.approx(2 * 2 / 10)
    assert metrics.two_sided_p(np.zeros(9)) == 1.0


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 raised to 0.06
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    with_none = metrics.holm([0.02, math.nan])
    assert with_none[0] == 0.02
    assert math.isnan(with_none[1])
    assert metrics.holm([]) == []


def test_a_resample_without_a_value_gives_no_interval() -> None:
    assert not metrics.percentile_interval(np.array([1.0, math.nan])).is_known


def test_metrics_import_neither_torch_nor_polars() -> None:
    tree = ast.parse(Path(sys.modules[metrics.__name__].__file__ or "").read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"math", "numpy"}
