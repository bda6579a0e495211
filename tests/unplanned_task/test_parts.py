"""The parts of the task, and how the engine finds it: nothing is registered in the engine."""

from __future__ import annotations

import pytest
import torch

from engine.errors import UnknownNameError
from engine.imaging.augment import Augmentation, draw
from engine.models.batch import Batch
from engine.tasks import TASKS, task_named
from jobs.recipes import recipe_named
from tests.unplanned_task.learning import box_alone
from tests.unplanned_task.task import ANKLE_WEAR, JOINT, SIZE_HW

torch.set_num_threads(1)


def test_the_engine_does_not_know_it() -> None:
    assert "ankle-wear" not in TASKS
    assert task_named("ankle-wear") is ANKLE_WEAR
    assert recipe_named("wear-student").task == "ankle-wear"
    with pytest.raises(UnknownNameError):
        task_named("ankle-wears")


def test_a_teacher_sees_the_box_alone_where_augmentation_moved_it() -> None:
    height, width = SIZE_HW
    x_BVHW = torch.zeros(2, 1, height, width)
    x_BVHW[:, :, 20:40, 30:60] = 1.0
    columns = dict(zip(JOINT.columns, torch.tensor([[30.0, 20, 59, 39], [torch.nan] * 4]).T, strict=True))
    seen = box_alone(Batch(x_BVHW, torch.zeros(2, 3), {"grade": torch.zeros(2), **columns}))
    assert seen.x_BVHW.shape == x_BVHW.shape
    assert seen.x_BVHW[0].mean() > 0.97
    assert seen.x_BVHW[1].mean() == pytest.approx(20 * 30 / (height * width), abs=1e-3)
    turned = draw(2, Augmentation(rotation_deg=0, scale=0, shift=0.2, gamma=0, contrast=0), seed=3, epoch=0)
    warp = turned.warp(SIZE_HW)
    moved = Batch(warp.maps(x_BVHW), torch.zeros(2, 3), {"grade": torch.zeros(2), **columns}, warp)
    assert box_alone(moved).x_BVHW[0].mean() > 0.9
