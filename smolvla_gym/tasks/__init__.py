"""Tasks, one file each with its success criterion and its scripted expert.

A new task goes into a file of its own: a subclass of :class:`Task` with an ``expert`` made of the motions in
:mod:`smolvla_gym.tasks.expert`; :mod:`smolvla_gym.tasks.registry` lists it. ``examples/own_task.py`` adds one from
outside the package.
"""

from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.registry import TASKS, check_registered, get_task, register_task
from smolvla_gym.tasks.stage import REWARDS, Stage

__all__ = ["REWARDS", "TASKS", "Layout", "Stage", "Task", "check_registered", "get_task", "register_task"]
