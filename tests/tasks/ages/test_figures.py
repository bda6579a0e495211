"""The figures of predicted ages, by hand-computed values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engine.evaluation.answer import Figure, Figures, figures_from_facts
from engine.evaluation.held_out import HeldOut
from engine.tasks.ages.accuracy import TRUTH
from engine.tasks.ages.figures import TRAINING_MEANS, figures
from tests.fixtures import judged_fixture

AGES = np.array([30.0, 90, 100, 150, 190, 200])


def held_out(apart: list[float]) -> HeldOut:
    truth = AGES[: len(apart)]
    return judged_fixture.held_out(truth, truth + apart, np.full(len(apart), 5))


def by_key(found: Figures) -> dict[str, Figure]:
    return {one.key: one for one in (found.headline, *found.more)}


def test_figures_by_hand() -> None:
    found = figures(held_out([3.0, -9, 12, 30, 0, 6]), {})
    values = {key: one.value for key, one in by_key(found).items()}
    assert values["mae_months"] == 10.0
    assert values["rmse_months"] == pytest.approx(math.sqrt((9 + 81 + 144 + 900 + 36) / 6))
    assert [values[f"within_{limit}"] for limit in (6, 12, 24)] == pytest.approx([50, 500 / 6, 500 / 6])
    assert values["bias_months"] == pytest.approx(7.0)
    assert 0.9 < values["icc"] < 1
    assert values["mean_sd_months"] == 5
    assert not {"corrected_mae_months", "negative_log_likelihood", "mean_predictor_mae_months"} & set(values)
    groups = {group.name: (group.heading, group.figures[0].value) for group in found.groups}
    assert groups["Female"] == ("By sex", pytest.approx(16.5))
    assert groups["Not stated"] == ("By sex", pytest.approx(9.0))
    assert groups["5 to under 10 years"] == ("By true bone age", pytest.approx(10.5))


def test_facts_come_back_and_are_json() -> None:
    found = figures(held_out([3.0, -9, 12, 30, 0, 6]), {})
    assert figures_from_facts(json.loads(json.dumps(found.facts(), allow_nan=False))) == found


def test_one_instance_has_figures_without_intervals() -> None:
    found = by_key(figures(held_out([4.0]), {}))
    assert found["mae_months"].value == 4.0
    assert found["mae_months"].low is None
    assert found["icc"].value is None


def test_guessing_the_mean_training_age_by_hand() -> None:
    facts = {TRAINING_MEANS: {TRUTH: 60.0}, "instances": 9, "temperature": 1.0, "by_sd": {}, "by_months": {}}
    found = by_key(figures(held_out([0.0, 0]), {**facts, "slope": 0.0, "intercept": 2.0}))
    assert found["mean_predictor_mae_months"].value == 30.0
    assert found["corrected_mae_months"].value == 2.0
