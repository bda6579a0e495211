"""What a network is told beside the image: codes, missing values, and hiding in training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.covariates import COVARIATES, columns, hidden, require_covariates, sources, unknown
from engine.errors import UnknownNameError

BOTH = ("sex", "chronological_age")


def test_sex_knows_only_two_codes() -> None:
    rows = [{"patient_sex": code} for code in ("M", "F", "O", "", None, "m")]
    assert columns(rows, ("sex",)).tolist() == [[1], [-1], [0], [0], [0], [0]]


def test_age_is_standardised_and_says_where_it_is_missing() -> None:
    rows = [{"age_months": months} for months in (120.0, 180.0, 0.0, None, math.nan)]
    assert columns(rows, ("chronological_age",)).tolist() == [[0, 0], [1, 0], [-2, 0], [0, 1], [0, 1]]


def test_columns_stand_in_the_order_of_the_names() -> None:
    rows = [{"patient_sex": "F", "age_months": 60.0}]
    assert columns(rows, BOTH).tolist() == [[-1, -1, 0]]
    assert columns(rows, BOTH[::-1]).tolist() == [[-1, 0, -1]]
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
    assert hidden(told, BOTH, np.array([True, False])).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert hidden(told, BOTH, np.array([True, False])).dtype == np.float32


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="chronological_age"):
        require_covariates(("sex", "cronological_age"))
