"""Registry of the tasks by name."""

from __future__ import annotations

import importlib

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.tasks.base import Task
from smolvla_gym.tasks.belt import BeltLift
from smolvla_gym.tasks.lift import Lift
from smolvla_gym.tasks.place import Place
from smolvla_gym.tasks.push import Push
from smolvla_gym.tasks.reach import Reach
from smolvla_gym.tasks.stack import Stack

TASKS: dict[str, Task] = {task.name: task for task in (Reach(), Lift(), Place(), Stack(), Push(), BeltLift())}
"""All registered tasks by name."""


def get_task(name: str) -> Task:
    """Return a task by name.

    Args:
        name: ``"lift"``, or ``"module:name"`` as with ``gym.make``: the module is imported first and registers the
            task. With that form every command, and each process that a command starts, finds a task of your own.

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
    """Refuse a task of a module in a configuration: the file may come from elsewhere, so it must import nothing.

    Raises:
        OptionError: ``name`` is of the form ``"module:name"``.
    """
    if isinstance(name, str) and ":" in name:
        allowed = "the name of a registered task; LeRobot's option discover_packages_path imports a module of yours"
        raise OptionError("task", name, allowed)


def register_task(task: Task) -> None:
    """Register a task under its name, for ``gym.make(task=)`` and everything else in this process.

    Args:
        task: The task. Its ``name`` must not belong to a task of another class.

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
