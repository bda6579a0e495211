"""The model card says what a bundle is, what it is worth and where it ends."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from engine.deploy import model_card
from engine.deploy.model_card import NOTICE
from engine.evaluation.answer import figures_from_facts
from engine.evaluation.held_out import HeldOut
from engine.tasks import TASKS
from engine.tasks.ages.answer import AGE
from tests.fixtures.judged_fixture import judged_facts, made_predictions


def bundle_facts(**changes: Any) -> dict[str, Any]:
    return {
        "task": {**TASKS["hand-age"].facts()},
        "parameters": 1_068_656,
        "gigaflops": 0.0333,
        "engine": "openvino",
        "model": {"covariates": ["sex"], "backbone": "mobilenetv3_small_100"},
        "recipe": {
            "role": "student",
            "distill": {"kd": 1.0, "reg": 0.5},
            "split": {"folds": 0, "fold": 0},
        },
        "data": {"counts": {"samples": 11111}, "sha256": "ab" * 32},
        "parity": {
            "instances": 256,
            "gates": {"months": {"unit": "months", "limit": 0.01, "departure": 0.0001}},
        },
        "checks": {"limit": "conformal", "train": 2000, "validation": 1500},
        "written": "2026-11-21T09:00:00+00:00",
        "code_version": "0.2.0",
        **judged_facts(made_predictions()),
        **changes,
    }


@pytest.mark.parametrize(
    ("checks", "first", "later"),
    [
        (None, "has no checks", "Exported without checks"),
        ({"limit": "widened", "train": 90, "validation": 20}, "fitted on 20 images only", "they are few"),
    ],
)
def test_the_card_begins_with_what_its_checks_lack(
    checks: dict[str, Any] | None, first: str, later: str
) -> None:
    text = card(bundle_facts(checks=checks))
    assert first in text.splitlines()[2]
    assert later in text
    assert first not in card(bundle_facts())


def card(facts: dict[str, Any], held: HeldOut | None = None) -> str:
    blocks = AGE.blocks(made_predictions() if held is None else held, facts["calibration"])
    return model_card.card(facts, blocks)


def test_the_card_says_what_it_must() -> None:
    facts = bundle_facts()
    text = card(facts)
    assert NOTICE in text.splitlines()[:4]
    assert "e-implementation from the abstract" in text
    assert "kd x 1, reg x 0.5" in text
    assert "112 x 112 pixels and sex" in text
    assert "11,111 samples" in text
    assert "calibrated on 120 instances of the validation split, judged on 60 of the test split" in text
    figures = figures_from_facts(facts["evaluation"]["figures"])
    icc = next(one for one in figures.more if one.key == "icc")
    assert f"| Mean absolute error, months | {figures.headline.value:.2f} |" in text
    assert f"| Agreement for one image, ICC(2,1) | {icc.value:.3f} |" in text
    assert "| Female | 30 |" in text
    assert "temperature 1.8" in text
    assert "is not applied." in text
    assert "No claim for other sites" in text


def test_coverage_stands_by_level_and_by_group() -> None:
    rows = [line for line in card(bundle_facts()).splitlines() if line.startswith("| 9")]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| 90 %", "multiple of the sd"],
        ["| 90 %", "same for all"],
        ["| 95 %", "multiple of the sd"],
    ]
    covered = re.findall(r"^\| 15 years and over \| \d+ \| [\d.]+ \|", card(bundle_facts()), re.MULTILINE)
    assert len(covered) == 1


def test_every_table_is_whole_and_no_figure_is_nan() -> None:
    few = made_predictions().chosen(np.array([0]))
    for text in (card(bundle_facts()), card(bundle_facts(**judged_facts(few)), few)):
        assert "nan" not in text.lower()
        assert "None" not in text
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            widths = {line.count("|") for line in block.splitlines()}
            assert len(widths) == 1


def test_folds_teacher_and_small_groups_are_said() -> None:
    facts = bundle_facts(recipe={"role": "student", "distill": {}, "split": {"folds": 5, "fold": 2}})
    facts["evaluation"]["fidelity"] = {"mean": 3.0, "p95": 8.0}
    text = card(facts)
    assert "fold 2 of 5 held out for validation" in text
    assert "From its teacher: 3.00 on average" in text
    assert "Distilled by: nothing" in text
    assert "Fewer than 20 instances" in text


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_where_it_comes_from(name: str) -> None:
    assert TASKS[name].origin
