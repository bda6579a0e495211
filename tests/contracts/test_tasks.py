"""The contract of every task in TASKS."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from engine.distillation.terms import TERMS
from engine.errors import UnknownNameError
from engine.ingest.instance import rule_from_facts
from engine.models.batch import Batch
from engine.models.network import AgeNet, ModelFacts, Outputs
from engine.models.ordered_bins import NUM_BINS, expectation, joint_loss
from engine.tasks import TASKS, task_named
from engine.training.learning import Weights
from tests.fixtures.training_fixture import BACKBONE

torch.set_num_threads(1)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.rand(2, 1, 48, 48, generator=generator),
        torch.tensor([[1.0], [-1.0]]),
        {"bin": torch.tensor([30.0, 200.0])},
    )


def weights(**terms: float) -> Weights:
    return Weights(task={"kl": 3.0, "delta": 7.0}, terms=terms)


def outputs(seed: int) -> Outputs:
    """What a network in training returns, as if it had adapters to its own channels."""
    torch.manual_seed(seed)
    given = batch()
    found: Outputs = AgeNet(ModelFacts(backbone=BACKBONE))(given.x_BVHW, given.covariates_BQ)
    return Outputs(found.logits_BK, found.dense_BKhw, found.features, found.features)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_name(name: str) -> None:
    assert TASKS[name].name == name
    assert task_named(name) is TASKS[name]


def test_importing_tasks_brings_no_torch() -> None:
    command = "import sys, engine.tasks; sys.exit(int('torch' in sys.modules))"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'hand-ages': did you mean 'hand-age'"):
        task_named("hand-ages")


@pytest.mark.parametrize("name", TASKS)
def test_facts_survive_json_and_give_the_rule_back(name: str) -> None:
    task = TASKS[name]
    facts = json.loads(json.dumps(task.facts()))
    assert facts["name"] == name
    assert facts["labels"] == [label.facts() for label in task.labels]
    assert facts["covariates"] == [covariate.name for covariate in task.covariates]
    assert rule_from_facts(facts["rule"]) == task.rule


@pytest.mark.parametrize("name", TASKS)
def test_labels_have_columns_of_their_own_and_one_is_required(name: str) -> None:
    columns = TASKS[name].label_columns
    assert len(set(columns)) == len(columns) > 0
    assert all(column.isidentifier() for column in columns)
    assert any(label.required for label in TASKS[name].labels)


@pytest.mark.parametrize("name", TASKS)
def test_covariates_have_as_many_columns_for_a_missing_value_as_for_a_known_one(name: str) -> None:
    known = {"patient_sex": "M", "age_months": 30.0}
    for covariate in TASKS[name].covariates:
        assert len(covariate.encode(known[covariate.column])) == covariate.width > 0


def test_a_task_restricted_to_some_covariates_is_the_same_question() -> None:
    task = TASKS["knee-age"]
    assert task.restricted(()) is task
    assert task.restricted(("sex",)) == replace(task, covariates=task.covariates[:1])
    with pytest.raises(UnknownNameError, match="did you mean 'chronological_age'"):
        task.restricted(("sex", "cronological_age"))


@pytest.mark.parametrize("name", TASKS)
def test_the_view_is_square(name: str) -> None:
    height, width = TASKS[name].rule.view.size_HW
    assert height == width >= 32


@pytest.mark.parametrize("name", TASKS)
def test_the_objective_without_a_teacher_is_the_joint_loss(name: str) -> None:
    learning, student = TASKS[name].learning(), outputs(1)
    parts = learning.objective(student, None, batch(), weights(kd=1.0))
    expected = joint_loss(student.logits_BK, batch().truth["bin"], weight=3.0, delta=7.0)
    assert parts["loss"].item() == expected["task"].item()
    assert not any(part.startswith("term/") for part in parts)
    assert all(math.isfinite(part.item()) for part in parts.values())


@pytest.mark.parametrize("name", TASKS)
def test_the_objective_with_a_teacher_adds_every_term(name: str) -> None:
    half = weights(**dict.fromkeys(TERMS, 0.5))
    parts = TASKS[name].learning().objective(outputs(1), outputs(2), batch(), half)
    assert all(math.isfinite(part.item()) for part in parts.values())
    assert {part.split("/")[1] for part in parts if part.startswith("term/")} == set(TERMS)
    weighted = sum(parts[f"term/{term}/weighted"].item() for term in TERMS)
    assert parts["loss"].item() == pytest.approx(parts["task"].item() + weighted, rel=1e-5)
    torch.autograd.backward(parts["loss"])


@pytest.mark.parametrize("name", TASKS)
def test_predictions_lie_within_the_bins(name: str) -> None:
    extremes = torch.full((2, NUM_BINS), -1e4)
    extremes[0, 0], extremes[1, -1] = 1e4, 1e4
    assert expectation(extremes).tolist() == [1, NUM_BINS]
    months_B = expectation(outputs(3).logits_BK)
    assert months_B.amin() >= 1
    assert months_B.amax() <= NUM_BINS == 240
