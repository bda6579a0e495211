"""What a network is told beside the image: codes, missing values, and hiding in training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.errors import UnknownNameError
from engine.ingest.covariates import COVARIATES, columns, hidden, require_covariates, sources, unknown

BOTH = ("sex", "chronological_age")


def test_sex_knows_only_two_codes() -> None:
    rows = [{"patient_sex": code} for code in ("M", "F", "O", "", None, "m")]
    assert columns(rows, ("sex",)).tolist() == [[1], [-1], [0], [0], [0], [0]]


def test_age_is_told_by_its_nearness_to_each_year() -> None:
    told_NQ = columns(
        [{"age_months": months} for months in (0.0, 66.0, 228.0, 700.0)], ("chronological_age",)
    )
    assert told_NQ.shape == (4, 21)
    assert told_NQ[0, :3].tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-2)])
    assert told_NQ[1, 4:8].tolist() == pytest.approx([math.exp(-d * d / 2) for d in (1.5, 0.5, 0.5, 1.5)])
    assert told_NQ[2, 18:].tolist() == pytest.approx([math.exp(-0.5), 1, 0])
    assert told_NQ[3].tolist() == told_NQ[2].tolist()  # grown


def test_ages_a_few_months_apart_are_told_apart() -> None:
    ages_N = np.arange(0.0, 229.0, 6.0)
    told_NQ = columns([{"age_months": months} for months in ages_N], ("chronological_age",))
    steps_N = np.linalg.norm(np.diff(told_NQ, axis=0), axis=1)
    assert steps_N.min() > 0.3


@pytest.mark.parametrize("months", [None, math.nan, math.inf])
def test_a_missing_age_is_told_to_be_missing(months: float | None) -> None:
    assert columns([{"age_months": months}], ("chronological_age",)).tolist() == [[0] * 20 + [1]]


def test_columns_stand_in_the_order_of_the_names() -> None:
    rows = [{"patient_sex": "F", "age_months": 60.0}]
    age = columns(rows, BOTH[1:])[0].tolist()
    assert columns(rows, BOTH).tolist() == [[-1, *age]]
    assert columns(rows, BOTH[::-1]).tolist() == [[*age, -1]]
    assert sources(BOTH) == ["patient_sex", "age_months"]


@pytest.mark.parametrize("names", [(), ("sex",), BOTH])
def test_no_samples_and_no_covariates_keep_their_shape(names: tuple[str, ...]) -> None:
    assert columns([], names).shape == (0, len(unknown(names)))
    assert columns([{}, {}], names).tolist() == [unknown(names).tolist()] * 2
    assert columns([{}], names).dtype == np.float32


@pytest.mark.parametrize("name", COVARIATES)
def test_an_unknown_value_is_coded_with_as_many_columns_as_a_known_one(name: str) -> None:
    known = {"patient_sex": "M", "age_months": 30.0}[COVARIATES[name].source]
    assert len(COVARIATES[name].encode(None)) == len(COVARIATES[name].encode(known))


def test_hiding_takes_the_age_of_the_chosen_and_never_the_sex() -> None:
    told = columns([{"patient_sex": "M", "age_months": 180.0}] * 2, BOTH)
    assert hidden(told, BOTH, np.array([True, False])).tolist() == [[1, *[0] * 20, 1], told[1].tolist()]
    assert hidden(told, BOTH, np.array([True, False])).dtype == np.float32


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="chronological_age"):
        require_covariates(("sex", "cronological_age"))
