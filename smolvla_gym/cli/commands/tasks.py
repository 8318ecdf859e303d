"""``smolvla-gym tasks``: what the arm can be asked to do."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command."""
    text = "List the tasks, each with an example instruction."
    parser = commands.add_parser("tasks", help=text, description=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line a task."""
    from smolvla_gym.tasks import TASKS

    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        print(f"{name:{width}}  {task.instruction_templates[0].format(color='red', base='blue')}")
    return 0
