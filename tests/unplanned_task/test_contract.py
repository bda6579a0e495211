"""The contract of every task holds for this one as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.tasks.task import Task
from tests.contracts.task_contract import CHECKS, a_row_has_measurements_that_make_a_valid_sr
from tests.unplanned_task.task import ANKLE_WEAR

torch.set_num_threads(1)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_of_a_task(check: Callable[[Task], None]) -> None:
    check(ANKLE_WEAR)


def test_its_measurements_make_a_valid_sr(tmp_path: Path) -> None:
    a_row_has_measurements_that_make_a_valid_sr(ANKLE_WEAR, tmp_path)
