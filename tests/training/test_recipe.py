"""Recipes: what ``--set`` may change, what is refused, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from engine.errors import TrainingError, UnknownNameError, UsageError
from engine.imaging.augment import Augmentation
from engine.tasks import task_named
from engine.training.recipe import (
    Architecture,
    Compute,
    Inputs,
    Optimiser,
    Recipe,
    Schedule,
    Split,
    objective_of,
    recipe_from_facts,
    with_changes,
)
from jobs.recipes import RECIPES, recipe_named
from tests.fixtures.training_fixture import tiny_recipe

PARTS = (Architecture, Augmentation, Compute, Inputs, Optimiser, Schedule, Split)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe_from_facts(json.loads(json.dumps(recipe.facts()))) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_students_distil_and_teachers_do_not(name: str) -> None:
    recipe = RECIPES[name]()
    assert bool(recipe.distill) == (recipe.role == "student")


def test_recipes_share_no_state() -> None:
    recipe_named("hand-student").distill.clear()
    assert recipe_named("hand-student").distill


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hand-student'"):
        recipe_named("hand-studnet")


def test_changes_are_typed_and_leave_the_rest() -> None:
    base = recipe_named("hand-student")
    new = with_changes(
        base,
        ["schedule.epochs=3", "learning_rate=1e-4", "network.backbone=resnet10t", "augmentation.flip=0.5",
         "compute.precision=bf16", "inputs.covariates=sex, chronological_age", "objective.kl=3"],
    )  # fmt: skip
    assert (new.schedule.epochs, new.optimiser.learning_rate) == (3, 1e-4)
    assert (new.network.backbone, new.compute.precision) == ("resnet10t", "bf16")
    assert new.inputs.covariates == ("sex", "chronological_age")
    assert new.objective == {"kl": 3.0}
    assert new.augmentation == replace(base.augmentation, flip=0.5)
    assert new.distill == base.distill
    assert base.schedule.epochs != 3
    assert recipe_from_facts(json.loads(json.dumps(new.facts()))) == new


def test_no_changes_give_the_same_recipe() -> None:
    assert with_changes(recipe_named("hand-student"), []) == recipe_named("hand-student")


def test_terms_can_be_weighed_and_dropped() -> None:
    student = recipe_named("hand-student")
    assert with_changes(student, ["distill=none"]).distill == {}
    assert with_changes(student, ["distill.kd=0.5"]).distill == {**student.distill, "kd": 0.5}
    assert with_changes(student, ["distill=none", "distill.gradcam=1"]).distill == {"gradcam": 1.0}


def test_a_term_can_rise_over_a_share_of_the_training() -> None:
    risen = with_changes(recipe_named("hand-student"), ["ramps.gradcam=0.25"])
    assert risen.ramps == {"gradcam": 0.25}
    assert recipe_from_facts(risen.facts()) == risen
    with pytest.raises(UsageError, match="ramps.kd must be a finite number, in 0..1"):
        with_changes(risen, ["ramps.kd=1.5"])


def test_spaces_around_the_sign_do_no_harm() -> None:
    assert with_changes(tiny_recipe(), [" epochs = 4 "]).schedule.epochs == 4


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ("epoch=3", "epochs"),
        ("schedule.epoch=3", "schedule.epochs"),
        ("augmentation.rotation=3", "augmentation.rotation_deg"),
        ("distill.gradcm=1", "gradcam"),
        ("backbone=resnet10", "resnet10t"),
        ("precision=bf", "bf16"),
        ("role=studnt", "student"),
        ("learns=covariate", "covariates"),
    ],
)
def test_an_unknown_name_says_the_nearest(change: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
        with_changes(tiny_recipe(), [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs=many", "epochs takes a value of type int, not 'many'"),
        ("epochs=1.5", "epochs takes a value of type int"),
        ("learning_rate=fast", "learning_rate takes a value of type float"),
        ("distill.kd=much", "distill.kd takes a value of type float"),
        ("augmentation.flip=yes", "augmentation.flip takes a value of type float"),
        ("epochs", "--set takes key=value, not 'epochs'"),
        ("distill=kd", "distill.NAME=VALUE"),
        ("augmentation=none", "augmentation.NAME=VALUE"),
        ("optimiser=adam", "optimiser.NAME=VALUE"),
        ("compile=perhaps", "compile takes a value of type bool"),
        ("epochs=0", "epochs must be a finite number, at least 1"),
        ("batch_size=0", "batch_size must be"),
        ("learning_rate=nan", "learning_rate must be"),
        ("learning_rate=inf", "learning_rate must be"),
        ("warmup=1.5", "warmup must be a finite number, in 0..1"),
        ("ema_decay=-0.1", "ema_decay must be"),
        ("distill.kd=-1", "distill.kd must be"),
        ("augmentation.scale=1", "augmentation.scale must be in"),
    ],
)
def test_wrong_values_are_refused(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_changes(tiny_recipe(), [change])


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        tiny_recipe().seed = 3  # type: ignore[misc]


def test_recipe_facts_are_complete() -> None:
    assert set(tiny_recipe().facts()) == set(Recipe.__dataclass_fields__)
    assert {one.name for kind in PARTS for one in fields(kind)} >= {"epochs", "learning_rate", "backbone"}
    names = [one.name for kind in PARTS for one in fields(kind)]
    assert len(set(names)) == len(names), "a short key would name two fields"


def test_a_loss_has_all_its_parameters_and_refuses_others() -> None:
    parameters = task_named("hand-age").learning().parameters
    assert objective_of(tiny_recipe(), parameters) == {"kl": 10.0, "delta": 10.0}
    assert objective_of(tiny_recipe(objective={"kl": 0.0}), parameters) == {"kl": 0.0, "delta": 10.0}
    with pytest.raises(UnknownNameError, match="did you mean 'delta'"):
        objective_of(tiny_recipe(objective={"deltas": 1.0}), parameters)
    with pytest.raises(UsageError, match="objective.delta must be a finite number, at least 0.5"):
        objective_of(tiny_recipe(objective={"delta": 0.1}), parameters)


def test_a_recipe_of_an_earlier_release_is_refused() -> None:
    with pytest.raises(TrainingError, match="earlier release: train again"):
        recipe_from_facts({"name": "tiny", "task": "hand-age", "role": "teacher", "epochs": 3})
