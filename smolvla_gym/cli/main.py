"""The console script ``smolvla-gym``: finds the command, and turns what went wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from smolvla_gym.cli import bench, doctor, evaluate, export, record, rollout, ros2, serve, tasks, train, twin, view
from smolvla_gym.errors import OptionError, SmolVLAGymError, UnknownNameError

_COMMANDS: Final = (rollout, evaluate, record, train, bench, serve, view, ros2, export, tasks, twin, doctor)
_TRACEBACK: Final = "SMOLVLA_GYM_TRACEBACK"

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_TERMINATED: Final = 128 + signal.SIGTERM


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is saved after Ctrl-C is then saved after it, too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit code: 0 it worked, 1 it failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exit_:  # argparse: 0 after --help, 2 after a wrong argument
        return int(exit_.code or 0)
    # Tasks of one's own, "module:name", are found in the working directory, as the interpreter would find them; behind
    # everything else, so that no file there takes the place of an installed module.
    with contextlib.suppress(OSError):  # it may have been removed
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)
    try:
        with _signals():
            code: int = arguments.run(arguments)
        return code
    except KeyboardInterrupt as interrupt:
        _say("terminated" if isinstance(interrupt, _Terminated) else "interrupted", interrupt)
        return EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED
    except (SmolVLAGymError, OSError) as error:
        if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
            raise
        _say(f"error: {error}", error)
        return EXIT_USAGE if isinstance(error, OptionError | UnknownNameError) else EXIT_FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smolvla-gym",
        description="The PAROL6 arm as a Gymnasium environment, driven by a SmolVLA agent.",
        epilog=f"Exit codes: 0 it worked, 1 it failed, 2 wrong arguments, 130 Ctrl-C. {_TRACEBACK}=1 shows tracebacks.",
    )
    version = importlib.metadata.version("smolvla-gym")
    parser.add_argument("--version", action="version", version=f"smolvla-gym {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turns SIGINT and SIGTERM into exceptions; the second one is ignored, so that an impatient one spoils no saving.

    A signal that the caller's shell ignores, such as SIGINT of a background job, stays ignored.
    """
    received = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received != 2:
            raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str, error: BaseException) -> None:
    with contextlib.suppress(OSError):  # where nobody reads any more, the exit code still says it
        for text in (line, *getattr(error, "__notes__", ())):
            print(f"smolvla-gym: {' '.join(text.split())}", file=sys.stderr)
