"""Signals that end a program: Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final, Self

from smolvla_gym.utils.startup import WORDS

SIGNALS: Final = tuple(signal.Signals(number) for number in WORDS)
"""Signals that end a command in order: what is finished is saved, the arm holds."""

_OF_TERMINALS: Final = tuple(number for number in SIGNALS if number != signal.SIGTERM)
_AGAIN_S: Final = 0.05
"""Time in s after which a signal is repeated whose exception the interpreter has dropped."""


class Interrupted(KeyboardInterrupt):
    """A signal as an exception: what is saved after Ctrl-C is saved after SIGTERM and SIGHUP, too."""


class Interruption:
    """Context manager that turns the signals into exceptions while its block runs.

    The first one raises :class:`Interrupted`; the second one is ignored, so that an impatient user spoils no saving;
    later ones raise again. A signal that the caller's shell ignores, such as SIGINT of a background job or SIGHUP
    below ``nohup``, stays ignored. Outside the main thread nothing is changed.

    Attributes:
        number: The first signal that came; None: none came.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._received = 0
        self._before: dict[int, object] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._interrupt) for number in _heeded()}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._repeat
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._before:
            return
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._received += 1
        if self.number is None:
            self.number = number
        if self._received != 2:
            raise Interrupted

    def _repeat(self, dropped: sys.UnraisableHookArgs) -> None:
        """Repeat a signal that came while the interpreter ran a destructor, where an exception is printed and lost."""
        if not isinstance(dropped.exc_value, Interrupted) or self.number is None:
            self._hook(dropped)
            return
        self._received = 0
        timer = threading.Timer(_AGAIN_S, _thread.interrupt_main, (self.number,))
        timer.daemon = True
        timer.start()


@contextlib.contextmanager
def withheld() -> Iterator[None]:
    """Start worker processes in the block that a terminal's signals do not reach; each calls :func:`ignore_terminal`.

    A terminal signals all its processes, and a worker that is still importing would answer with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
    try:
        # Python's own helper does not survive SIGHUP, and its successor complains. Starting it unblocks SIGINT.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_terminal() -> None:
    """Ignore what a terminal sends to all its processes: the program that has started this one ends it."""
    for number in _OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_TERMINALS)


def _heeded() -> list[int]:
    """Return the signals that are not ignored, by this program or by a handler outside Python."""
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
