"""Handling of signals at the start of a command, before modules that are slow to import.

Only modules that every Python has loaded already, or has built in, are imported here.
"""

import _signal  # type: ignore[import-not-found]  # signal without the enumerations, which take time
import os
import sys

WORDS = {
    getattr(_signal, name): word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if hasattr(_signal, name)  # Windows has no SIGHUP
}
"""Signals that end a command in order, and what each does to the program."""


def exit_code(number: int) -> int:
    """Return the exit code of a program that a signal has ended, as shells count it."""
    return 128 + number


def exit_at_once() -> None:
    """Have the signals end a command at once and without a traceback, for the time until it has begun anything.

    Where this process is not the command ``smolvla-gym`` but another program that imports the package, or a worker
    process, nothing is changed. A signal that is ignored stays ignored.
    """
    if _is_command():
        for number in WORDS:
            if _signal.getsignal(number) not in (_signal.SIG_IGN, None):
                _signal.signal(number, _exit)


def _is_command() -> bool:
    # While a package is looked for, `python -m` has "-m" in place of the program's name. The arguments of a worker
    # process are those of its program, but for the original ones.
    if not sys.argv or sys.argv[0] not in sys.orig_argv[1:]:
        return False
    if sys.argv[0] == "-m":
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["smolvla_gym"]
    return os.path.splitext(os.path.basename(sys.argv[0]))[0] == "smolvla-gym"


def _exit(number: int, frame: object) -> None:
    try:
        os.write(2, f"smolvla-gym: {WORDS[number]}\n".encode())
    finally:  # also where standard error is closed
        os._exit(exit_code(number))
