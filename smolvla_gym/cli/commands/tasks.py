"""``smolvla-gym tasks``: list the tasks of the arm."""

from __future__ import annotations

from typing import Any

from smolvla_gym.cli.options.parser import Options, add_command


def add_parser(commands: Any) -> None:
    """Add the command to the program."""
    text = "List the tasks, each with an example instruction."
    add_command(commands, "tasks", Options, run, help=text, description=text)


def run(options: Options) -> int:
    """Print a line for each task."""
    from smolvla_gym.tasks import TASKS

    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        print(f"{name:{width}}  {task.phrasings[0].format(color='red', base='blue')}")
    return 0
