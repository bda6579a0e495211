"""Chronological age as a covariate: nearness to each year, and missing values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.ingest.covariates import SEX, columns, hidden
from engine.tasks.ages.inputs import CHRONOLOGICAL_AGE

BOTH = (SEX, CHRONOLOGICAL_AGE)


def test_age_is_told_by_its_nearness_to_each_year() -> None:
    columns_NQ = columns(
        [{"age_months": months} for months in (0.0, 66.0, 228.0, 700.0)], (CHRONOLOGICAL_AGE,)
    )
    assert columns_NQ.shape == (4, 21)
    assert columns_NQ[0, :3].tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-2)])
    assert columns_NQ[1, 4:8].tolist() == pytest.approx([math.exp(-d * d / 2) for d in (1.5, 0.5, 0.5, 1.5)])
    assert columns_NQ[2, 18:].tolist() == pytest.approx([math.exp(-0.5), 1, 0])
    assert columns_NQ[3].tolist() == columns_NQ[2].tolist()  # grown


def test_ages_a_few_months_apart_are_told_apart() -> None:
    ages_N = np.arange(0.0, 229.0, 6.0)
    columns_NQ = columns([{"age_months": months} for months in ages_N], (CHRONOLOGICAL_AGE,))
    steps_N = np.linalg.norm(np.diff(columns_NQ, axis=0), axis=1)
    assert steps_N.min() > 0.3


@pytest.mark.parametrize("months", [None, math.nan, math.inf])
def test_a_missing_age_is_told_to_be_missing(months: float | None) -> None:
    assert columns([{"age_months": months}], (CHRONOLOGICAL_AGE,)).tolist() == [[0] * 20 + [1]]


def test_covariate_dropout_hides_the_age_and_never_the_sex() -> None:
    both_NQ = columns([{"patient_sex": "M", "age_months": 180.0}] * 2, BOTH)
    hidden_NQ = hidden(both_NQ, BOTH, np.array([True, False]))
    assert hidden_NQ.tolist() == [[1, *[0] * 20, 1], both_NQ[1].tolist()]
