"""The console script ``smolvla-gym``: runs a command, and turns errors into a line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.metadata
import io
import os
import re
import select
import shutil
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Final

from smolvla_gym.cli.commands import (
    bench,
    calibrate,
    dataset,
    doctor,
    evaluate,
    export,
    mount_guard,
    record,
    rollout,
    ros2,
    serve,
    tasks,
    train,
    twin,
    view,
)
from smolvla_gym.cli.completion import COMPLETION_HELP, add_completion
from smolvla_gym.cli.options.parser import CommandParser, UsageError
from smolvla_gym.errors import DatasetError, OptionError, RecordingError, SmolVLAGymError, UnknownNameError
from smolvla_gym.utils import signals
from smolvla_gym.utils.startup import WORDS, exit_code
from smolvla_gym.utils.untrusted import printable

_COMMANDS: Final = (
    rollout, evaluate, record, dataset, train, bench, serve, view, ros2, export, calibrate, mount_guard, tasks, twin,
    doctor,
)  # fmt: skip
_TRACEBACK: Final = "SMOLVLA_GYM_TRACEBACK"

_REASONS: Final = ("only ", "this machine ", "the env ", "the expert ", "without ")
"""Beginnings of an ``OptionError.allowed`` that is a reason and no value."""

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_BROKEN_PIPE: Final = 141
"""As of a program that SIGPIPE has ended; Python ignores that signal."""

_EXIT_CODES: Final = f"""exit codes:
  0 success, 1 failure, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP,
  141 the reader of the output has gone; {_TRACEBACK}=1 shows tracebacks

"""

_ADVICE: Final = {
    errno.ENOSPC: "make room on the disk, or choose another folder",
    errno.EDQUOT: "make room below your quota, or choose another folder",
    errno.EFBIG: "the limit of a file's size is reached (ulimit -f)",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
}
"""Advice on errors of the operating system."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; None: those of the process.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong arguments, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 141 the reader of
        the output has closed the pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # The name of a folder may have characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
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
    except OSError as error:  # the help or the completion script could not be printed
        return _close(error, 0)
    _find_own_modules(arguments)
    interruption = signals.Interruption()
    try:
        with interruption:
            code: int = arguments.run(arguments)
        return code
    except (KeyboardInterrupt, Exception, SystemExit) as error:
        return _end(error, interruption.number, getattr(arguments, "flags", frozenset()))


def _find_own_modules(arguments: argparse.Namespace) -> None:
    """Let modules of the working directory be imported if the command line names one, as in ``--task my_tasks:mine``.

    Otherwise they are not found: libraries try to import packages that are not installed, and a file of that name in
    a foreign folder would run. Installed modules come first.
    """
    tasks = getattr(arguments, "task", None) or ()
    if any(":" in task for task in ([tasks] if isinstance(tasks, str) else tasks)):
        with contextlib.suppress(OSError):  # the folder may have been removed
            if (here := os.getcwd()) not in sys.path:
                sys.path.append(here)


def _end(error: BaseException, number: int | None, flags: Collection[str]) -> int:
    """Print why a command has ended, and return the exit code.

    Args:
        error: The error that it raised.
        number: The signal that came before; None: none came.
        flags: The options of the command.

    Raises:
        BaseException: The error itself, if it is a defect of this package or a traceback was requested.
    """
    if isinstance(error, KeyboardInterrupt) or number is not None:
        number = number or signal.SIGINT
        _say(WORDS[number], error)
        # A library may have turned the signal's exception into another one; these say what was not saved.
        if isinstance(error, RecordingError | DatasetError):
            _say(f"error: {_sentence(error)}")
        return exit_code(number)
    if isinstance(error, SystemExit):
        # Rich ends the program when the reader of its output has gone.
        return EXIT_BROKEN_PIPE if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    if not isinstance(error, SmolVLAGymError | OSError) or os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        raise error
    if type(error) is BrokenPipeError and (_is_broken(1) or _is_broken(2)):
        return _close(error, EXIT_BROKEN_PIPE)
    _say(f"error: {_sentence(error, flags)}", error)
    return EXIT_USAGE if isinstance(error, OptionError | UnknownNameError) else EXIT_FAILURE


def _close(error: OSError, code: int) -> int:
    """Drop the output that is still buffered, which Python would complain about at its end; return the exit code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    _say(f"error: the result could not be printed: {_sentence(error)}")
    return code or EXIT_FAILURE


def _is_broken(descriptor: int) -> bool:
    """Return whether the reader of a pipe has gone."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _sentence(error: Exception, flags: Collection[str] = ()) -> str:
    """Return the message of an error: the option or file, the problem, and what to do.

    Args:
        error: The error.
        flags: The options of the command; the API's name of an option is printed as the command line has it.
    """
    if isinstance(error, OptionError):
        flag = "--" + error.option.replace("_", "-")
        name = flag if flag in flags else error.option
        is_reason = isinstance(error, UsageError) or error.allowed.startswith(_REASONS)
        reason = error.allowed if is_reason else f"expected {error.allowed}"
        return f"{name}{_shown(error.value)}: {reason}"
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


def _shown(value: object) -> str:
    """Return the value of an option as a command line has it, after a space; nothing for one without a value."""
    if value is None or isinstance(value, bool):
        return ""
    texts = value if isinstance(value, list | tuple) else [value]
    return " " + printable(" ".join(f"{text:g}" if isinstance(text, float) else str(text) for text in texts), 200)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="smolvla-gym",
        description="The PAROL6 arm as a Gymnasium environment, driven by a SmolVLA agent.",
        epilog=_EXIT_CODES + COMPLETION_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_completion(parser)
    version = importlib.metadata.version("smolvla-gym")
    parser.add_argument("--version", action="version", version=f"smolvla-gym {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _say(line: str, error: BaseException | None = None) -> None:
    with contextlib.suppress(OSError):  # the exit code remains when standard error is closed
        for text in (line, *getattr(error, "__notes__", ())):
            print(f"smolvla-gym: {' '.join(text.split())}", file=sys.stderr)
