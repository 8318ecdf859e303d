"""The tasks, one file each."""

from __future__ import annotations

from smolvla_gym.errors import UnknownNameError
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.lift import Lift
from smolvla_gym.tasks.place import Place
from smolvla_gym.tasks.push import Push
from smolvla_gym.tasks.reach import Reach
from smolvla_gym.tasks.stack import Stack
from smolvla_gym.tasks.stage import REWARDS, Stage

TASKS: dict[str, Task] = {task.name: task for task in (Reach(), Lift(), Place(), Stack(), Push())}
"""All tasks by name."""


def get_task(name: str) -> Task:
    """Returns a task by name.

    Raises:
        UnknownNameError: There is no task of this name.
    """
    try:
        return TASKS[name]
    except (KeyError, TypeError):
        raise UnknownNameError("task", name, TASKS) from None


__all__ = ["REWARDS", "TASKS", "Layout", "Stage", "Task", "get_task"]
