"""The console script ``smolvla-gym``: finds the command, and turns what went wrong into a line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.metadata
import os
import re
import select
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Final

from smolvla_gym.cli.commands import (
    bench,
    dataset,
    doctor,
    evaluate,
    export,
    record,
    rollout,
    ros2,
    serve,
    tasks,
    train,
    twin,
    view,
)
from smolvla_gym.errors import DatasetError, OptionError, RecordingError, SmolVLAGymError, UnknownNameError
from smolvla_gym.utils import signals
from smolvla_gym.utils.startup import WORDS, exit_code

_COMMANDS: Final = (rollout, evaluate, record, dataset, train, bench, serve, view, ros2, export, tasks, twin, doctor)
_TRACEBACK: Final = "SMOLVLA_GYM_TRACEBACK"

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_BROKEN_PIPE: Final = 141
"""As a shell counts the end by SIGPIPE, which Python ignores."""

_ADVICE: Final = {
    errno.ENOSPC: "make room on the disk, or choose another folder",
    errno.EDQUOT: "make room below your quota, or choose another folder",
    errno.EFBIG: "the limit of a file's size is reached (ulimit -f)",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
}
"""What to do about an error of the system."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments; None takes those of the process.

    Returns:
        The exit code: 0 it worked, 1 it failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 nobody
        reads what is printed.
    """
    code = _run(argv)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = _close(error, code)
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exit_:  # argparse: 0 after --help, 2 after a wrong argument
        return int(exit_.code or 0)
    except BrokenPipeError as error:  # nobody reads the help
        return _close(error, 0)
    _find_own_modules(arguments)
    interruption = signals.Interruption()
    try:
        with interruption:
            code: int = arguments.run(arguments)
        return code
    except (KeyboardInterrupt, Exception, SystemExit) as error:
        return _end(error, interruption.number)


def _find_own_modules(arguments: argparse.Namespace) -> None:
    """Have modules of the working directory found where the command line names one, as in ``--task my_tasks:mine``.

    Otherwise not: libraries try to import packages that are not installed, and a file of that name in a folder of
    somebody else's would run. What is installed comes first.
    """
    tasks = getattr(arguments, "task", None) or ()
    if any(":" in task for task in ([tasks] if isinstance(tasks, str) else tasks)):
        with contextlib.suppress(OSError):  # the folder may have been removed
            if (here := os.getcwd()) not in sys.path:
                sys.path.append(here)


def _end(error: BaseException, number: int | None) -> int:
    """Says why a command has ended.

    Args:
        error: What it raised.
        number: The signal that came before; None: none came.

    Returns:
        The exit code.

    Raises:
        BaseException: The error itself, where it is a defect of this package or a traceback is asked for.
    """
    if isinstance(error, KeyboardInterrupt) or number is not None:
        number = number or signal.SIGINT
        _say(WORDS[number], error)
        # A library may have turned the signal's exception into another one; these tell what was not saved.
        if isinstance(error, RecordingError | DatasetError):
            _say(f"error: {_sentence(error)}")
        return exit_code(number)
    if isinstance(error, SystemExit):
        # Rich ends the program where nobody reads what it prints.
        return EXIT_BROKEN_PIPE if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    if not isinstance(error, SmolVLAGymError | OSError) or os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        raise error
    if type(error) is BrokenPipeError and (_is_broken(1) or _is_broken(2)):
        return _close(error, EXIT_BROKEN_PIPE)
    _say(f"error: {_sentence(error)}", error)
    return EXIT_USAGE if isinstance(error, OptionError | UnknownNameError) else EXIT_FAILURE


def _close(error: OSError, code: int) -> int:
    """Drops what is still to be printed, which Python would complain about at its end; returns the exit code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    _say(f"error: the result could not be printed: {_sentence(error)}")
    return code or EXIT_FAILURE


def _is_broken(descriptor: int) -> bool:
    """Tells whether nobody reads a pipe any more."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _sentence(error: Exception) -> str:
    """Returns what an error says; of one of the system the file, what is wrong with it and what to do."""
    if isinstance(error, SmolVLAGymError) or not isinstance(error, OSError):
        return str(error)
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        _, target, why = error.args[0][0]  # of many files, in words
        found = re.match(r"\[Errno (\d+)\] ([^:]+)", str(why))
        error = OSError(int(found[1]), found[2], str(target)) if found else OSError(f"{target}: {why}")
    if error.strerror is None:
        return str(error) or type(error).__name__
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    advice = _ADVICE.get(error.errno or 0)
    return f"{' -> '.join(places)}{': ' * bool(places)}{error.strerror}{f'; {advice}' if advice else ''}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smolvla-gym",
        description="The PAROL6 arm as a Gymnasium environment, driven by a SmolVLA agent.",
        epilog="Exit codes: 0 it worked, 1 it failed, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 "
        f"nobody reads the output. {_TRACEBACK}=1 shows tracebacks.",
    )
    version = importlib.metadata.version("smolvla-gym")
    parser.add_argument("--version", action="version", version=f"smolvla-gym {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _say(line: str, error: BaseException | None = None) -> None:
    with contextlib.suppress(OSError):  # where nobody reads any more, the exit code still says it
        for text in (line, *getattr(error, "__notes__", ())):
            print(f"smolvla-gym: {' '.join(text.split())}", file=sys.stderr)
