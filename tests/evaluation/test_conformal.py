"""Limits of a validation split: conformal where it is large enough, else widened by a known law."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluation.conformal import FEWEST, MEASURED, upper_limit


def test_from_199_values_on_the_limit_is_one_of_them() -> None:
    values_N = np.arange(1, MEASURED + 1, dtype=np.float64)
    limit = upper_limit(values_N)
    assert limit is not None
    assert (MEASURED, limit.value, limit.kind) == (199, 199.0, "conformal")
    fewer = upper_limit(values_N[:-1])
    assert fewer is not None
    assert fewer.kind == "widened"


def test_a_widened_limit_by_hand() -> None:
    """Hahn and Meeker: mean + t sd sqrt(1 + 1/N); t of 9 degrees of freedom at 0.995 is 3.250."""
    values_N = np.arange(10, dtype=np.float64)
    limit = upper_limit(values_N)
    assert limit is not None
    assert limit.value == pytest.approx(4.5 + 3.250 * 3.02765 * np.sqrt(1.1), rel=2e-3)
    by_logarithm = upper_limit(np.exp(values_N), is_positive=True)
    assert by_logarithm is not None
    assert np.log(by_logarithm.value) == pytest.approx(limit.value)


def test_it_is_never_below_the_largest_value() -> None:
    outlier_N = np.array([0.0] * 100 + [50.0])
    limit = upper_limit(outlier_N)
    assert limit is not None
    assert limit.value >= 50


@pytest.mark.parametrize("count", [FEWEST, 20, 100])
def test_new_values_of_that_law_cross_it_as_seldom_as_stated(count: int) -> None:
    rng = np.random.default_rng(0)
    limits = [upper_limit(rng.lognormal(0, 1, count), is_positive=True) for _ in range(2000)]
    crossed = np.mean([rng.lognormal(0, 1, 50) > limit.value for limit in limits if limit])
    assert 0 < crossed <= 0.0065


def test_too_few_values_have_no_limit() -> None:
    assert upper_limit(np.arange(FEWEST - 1)) is None
