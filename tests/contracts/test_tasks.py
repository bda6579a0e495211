"""The contract of every task in TASKS; what it says stands in ``task_contract``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.errors import UnknownNameError
from engine.tasks import TASKS, task_named
from engine.tasks.task import Task
from tests.contracts.task_contract import CHECKS, a_row_has_measurements_that_make_a_valid_sr

torch.set_num_threads(1)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TASKS)
def test_the_contract_of_a_task(name: str, check: Callable[[Task], None]) -> None:
    check(TASKS[name])


@pytest.mark.parametrize("name", TASKS)
def test_its_measurements_make_a_valid_sr(name: str, tmp_path: Path) -> None:
    a_row_has_measurements_that_make_a_valid_sr(TASKS[name], tmp_path)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_name(name: str) -> None:
    assert TASKS[name].name == name
    assert task_named(name) is TASKS[name]


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'hand-ages': did you mean 'hand-age'"):
        task_named("hand-ages")


def test_a_task_restricted_to_some_covariates_is_the_same_question() -> None:
    task = TASKS["knee-age"]
    assert task.restricted(()) is task
    assert task.restricted(("sex",)) == replace(task, covariates=task.covariates[:1])
    with pytest.raises(UnknownNameError, match="did you mean 'chronological_age'"):
        task.restricted(("sex", "cronological_age"))


@pytest.mark.parametrize("name", TASKS)
def test_the_view_is_large_enough_to_be_seen(name: str) -> None:
    assert min(TASKS[name].rule.view.size_HW) >= 32
