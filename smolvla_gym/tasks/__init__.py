"""The tasks, one file each."""

from __future__ import annotations

import importlib

from smolvla_gym.errors import OptionError, UnknownNameError
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

    Args:
        name: ``"lift"``, or as with ``gym.make`` ``"module:name"``: the module is imported first, which registers
            the task. So a task of one's own is known to every command, and to the processes that these start.

    Raises:
        UnknownNameError: There is no task of this name.
        OptionError: The module cannot be imported.
    """
    if isinstance(name, str) and ":" in name:
        module, _, name = name.rpartition(":")
        try:
            importlib.import_module(module)
        except Exception as error:  # the module is the user's
            why = f"{type(error).__name__}: {error}"
            allowed = f"a module that can be imported from here, and a task that it registers ({why})"
            raise OptionError("task", f"{module}:{name}", allowed) from error
    if not isinstance(name, str) or name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    return TASKS[name]


def check_registered(name: object) -> None:
    """Refuse a task of a module in a configuration, which may be a file from elsewhere: it imports nothing.

    Raises:
        OptionError: ``name`` is of the form ``"module:name"``.
    """
    if isinstance(name, str) and ":" in name:
        allowed = "the name of a registered task; LeRobot's option discover_packages_path imports a module of yours"
        raise OptionError("task", name, allowed)


def register_task(task: Task) -> None:
    """Makes a task known by its name, to ``gym.make(task=)`` and everything else in this process.

    Args:
        task: Its ``name`` must not be taken by a task of another class.

    Raises:
        OptionError: The name is taken, or a template lacks the field ``{color}``.
    """
    known = TASKS.get(task.name)
    if known is not None and type(known) is not type(task):
        raise OptionError("task.name", task.name, f"a name that is not taken, as {', '.join(TASKS)} are")
    for template in (*task.instruction_templates, *task.unseen_instruction_templates):
        if "{color}" not in template:
            raise OptionError("task.instruction_templates", template, "sentences with the field {color}")
    TASKS[task.name] = task


__all__ = ["REWARDS", "TASKS", "Layout", "Stage", "Task", "check_registered", "get_task", "register_task"]
