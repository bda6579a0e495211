"""TASKS: one line for each clinical question."""

from __future__ import annotations

from engine.errors import UnknownNameError
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE
from engine.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (HAND_AGE, KNEE_AGE)}


def task_named(name: str) -> Task:
    """The task called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name]
