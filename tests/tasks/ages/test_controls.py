"""The controls: whom chronological age misleads, and agreement with the makers of pseudo-labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from engine.evaluation.answer import Grid
from engine.evaluation.held_out import HeldOut
from engine.tasks.ages.accuracy import PREDICTED, SD, TRUTH
from engine.tasks.ages.blocks import blocks, controls, is_discordant
from engine.tasks.ages.inputs import PSEUDO_COLUMNS

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
    one = replace(held([100, 100, 100, 100], [101, 104, 98, 150]), age_months_N=floats(112, 113, 80, NAN))
    (found,) = controls(one)
    assert found.instances == 2
    assert found.error.value == pytest.approx(3)
    assert found.against_mae == pytest.approx(16.5)


def test_errors_against_pseudo_labels_stand_beside_their_own() -> None:
    one = held([100, 100, 100], [110, 90, 100])
    (found,) = controls(replace(one, truth={**one.truth, PSEUDO_COLUMNS[0]: floats(108, 91, NAN)}))
    assert found.instances == 2
    assert found.error.value == pytest.approx(1.5)
    assert found.against_mae == pytest.approx(8.5)


def test_the_report_shows_them() -> None:
    one = held([100, 100, 100], [110, 90, 100])
    told = replace(one, truth={**one.truth, PSEUDO_COLUMNS[0]: floats(108, 91, NAN)})
    (grid,) = (block for block in blocks(told, {}) if isinstance(block, Grid) and "image used" in block.title)
    assert grid.rows[0][1:3] == ("2", "1.50")
    assert grid.small == (True,)
    assert not [b for b in blocks(one, {}) if isinstance(b, Grid) and "image used" in b.title]
