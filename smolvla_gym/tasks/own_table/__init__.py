"""Tasks with the objects of a table of one's own, and experts that know only the shape of an object.

================  ==============================================================================
``task``          base class: instructions of nouns and adjectives, places of the objects
``placing``       places without collisions
``occupancy``     points inside an object, from its shapes in the scene
``grasps``        places at which the jaws can hold an object
``handling``      motions with such grasps
``lift`` …        the tasks
================  ==============================================================================
"""

from __future__ import annotations

from typing import Final

from smolvla_gym.errors import OptionError
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.tasks.own_table.lift import OwnLift
from smolvla_gym.tasks.own_table.place import OwnPlace
from smolvla_gym.tasks.own_table.push import OwnPush
from smolvla_gym.tasks.own_table.stack import OwnStack
from smolvla_gym.tasks.own_table.task import OwnLayout, OwnTask

OWN_TASKS: Final[dict[str, type[OwnTask]]] = {task.name: task for task in (OwnLift, OwnPlace, OwnStack, OwnPush)}
"""Tasks that work with objects of one's own, by name."""

__all__ = ["OWN_TASKS", "OwnLayout", "OwnTask", "own_task"]


def own_task(name: str, table: OwnTable) -> OwnTask:
    """Return a task with the objects of a table.

    Raises:
        OptionError: The task does not work with objects of one's own.
    """
    if name not in OWN_TASKS:
        raise OptionError("task", name, f"with table= one of {', '.join(OWN_TASKS)}")
    return OWN_TASKS[name](table)
