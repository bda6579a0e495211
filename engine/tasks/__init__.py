"""The clinical questions: TASKS has one line for each.

A ``Task`` (``task``) says what goes in, what the truth is, and what is answered. Kinds of answers have a
folder, such as ``ages``. Importing this room imports no torch: ``Task.learning`` does when it is called.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from engine.errors import UnknownNameError
from engine.tasks.hand_age import HAND_AGE
from engine.tasks.knee_age import KNEE_AGE
from engine.tasks.sos_stage import SOS_STAGE
from engine.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (HAND_AGE, KNEE_AGE, SOS_STAGE)}


def task_named(name: str) -> Task:
    """The task called ``name``: of TASKS, or of an installed package (its entry point).

    Raises:
        UnknownNameError: there is none.
    """
    if name in TASKS:
        return TASKS[name]
    for entry in entry_points(group="osteoray.tasks", name=name):
        task: Task = entry.load()
        return task
    raise UnknownNameError("task", name, TASKS)
