"""The controls: whom chronological age misleads, and agreement with the makers of pseudo-labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.evaluation.held_out import HeldOut
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH
from engine.tasks.ages.controls import control_facts, is_discordant

NAN = math.nan


def held(truth: list[float], predicted: list[float]) -> HeldOut:
    count = len(truth)
    return HeldOut(
        uids_N=np.array([f"2.25.{index}" for index in range(count)]),
        patients_N=np.array([f"p{index}" for index in range(count)]),
        sexes_N=np.array(["F"] * count),
        age_months_N=np.full(count, np.nan, np.float32),
        truth={TRUTH: np.array(truth, np.float32)},
        predicted={PREDICTED: np.array(predicted, np.float32), SD: np.ones(count, np.float32)},
    )


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_discordant_is_more_than_a_year_apart_with_a_known_age() -> None:
    assert is_discordant(floats(100, 100, 100, 100), floats(112, 113, 80, NAN)).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_the_subgroup_by_hand() -> None:
    one = held([100, 100, 100, 100], [101, 104, 98, 150])
    facts = control_facts(one, floats(112, 113, 80, NAN), floats(NAN, NAN, NAN, NAN))
    assert "pseudo_labels" not in facts
    assert facts["discordant"]["instances"] == 2
    assert facts["discordant"]["mae_months"] == pytest.approx(3)
    assert facts["discordant"]["chronological_age_mae"] == pytest.approx(16.5)


def test_errors_against_pseudo_labels_stand_beside_their_own() -> None:
    one = held([100, 100, 100], [110, 90, 100])
    facts = control_facts(one, floats(NAN, NAN, NAN), floats(108, 91, NAN))
    assert facts.keys() == {"pseudo_labels"}
    assert facts["pseudo_labels"]["mae_months"] == pytest.approx(1.5)
    assert facts["pseudo_labels"]["own_mae"] == pytest.approx(8.5)
