"""Instruction that a LeRobot program records or gives to a policy.

LeRobot does not pass it to the robot, and a simulated arm has to lay out the objects that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from smolvla_gym.errors import OptionError

_OPTIONS: Final = ("--dataset.single_task", "--task")


def find_instruction(configured: str | None, argv: Sequence[str]) -> str | None:
    """Return the instruction of a run.

    Args:
        configured: The robot's option ``instruction``.
        argv: Command line of the process; only that of a LeRobot program is read.

    Returns:
        The instruction; None: the run has none.

    Raises:
        OptionError: The robot's instruction is empty, or differs from the one that the program records.
    """
    if configured is not None and (not isinstance(configured, str) or not configured.strip()):
        raise OptionError("--robot.instruction", configured, "a sentence")
    recorded = _of_program(argv)
    if configured is not None and recorded is not None and configured != recorded:
        raise OptionError(
            "--robot.instruction", configured, f"{recorded!r}, as in {' and '.join(_OPTIONS)}, or nothing"
        )
    return configured if configured is not None else recorded


def _of_program(argv: Sequence[str]) -> str | None:
    if not argv or not PurePath(argv[0]).name.replace("_", "-").startswith("lerobot-"):
        return None
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in _OPTIONS:
            return value if equals else following
    return None
