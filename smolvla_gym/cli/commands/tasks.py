"""``smolvla-gym tasks``: list the tasks of the arm."""

from __future__ import annotations

from smolvla_gym.cli.options.parser import AddParser, Options, command


def run(options: Options) -> int:
    """Print a line for each task."""
    from smolvla_gym.tasks import TASKS

    width = max(map(len, TASKS))
    for name, task in TASKS.items():
        print(f"{name:{width}}  {task.instruction_templates[0].format(color='red', base='blue')}")
    return 0


add_parser: AddParser = command(
    "tasks", Options, run,
    help="List the tasks, each with an example instruction.",
    description="Lists the tasks, each with an example instruction.",
)  # fmt: skip
