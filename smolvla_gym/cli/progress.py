"""The progress of commands that take long: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

FIRST_S: Final = 1.5
"""Time in s until the first line where standard error is no terminal."""

EVERY_S: Final = 20.0
"""Time in s from one line to the next, whether or not anything has changed."""

_LONGEST_S: Final = 1e6
"""Time in s over which the rate is averaged: all of it but what came before the first report, such as loading."""


@contextlib.contextmanager
def steady_lines(text: Callable[[], str], every_s: float | None = None) -> Iterator[None]:
    """Print a line to standard error at a fixed interval while the block runs, also while it waits for something.

    Args:
        text: Returns the line.
        every_s: Time in s between two lines; None: ``EVERY_S``, after a first line at ``FIRST_S``.
    """
    began, over = time.monotonic(), threading.Event()
    interval = EVERY_S if every_s is None else every_s

    def run() -> None:
        wait = min(FIRST_S, interval) if every_s is None else interval
        while not over.wait(wait):
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            with contextlib.suppress(OSError, ValueError):  # the pipe or the stream is closed
                print(f"smolvla-gym: {text()}  ({minutes}:{seconds:02d})", file=sys.stderr, flush=True)
            wait = interval

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def progress_bar(unit: str, total: int, done: int = 0, text: str = "") -> Iterator[Callable[[int, str], None]]:
    """Show a bar on standard error, or where that is no terminal a line at a fixed interval.

    Args:
        unit: What is counted, such as ``"episode"``.
        total: How many there will be.
        done: How many there are already.
        text: Further text, until the first update.

    Yields:
        A function that takes how many are done now and further text.
    """
    with progress_with_pause(unit, total, done, text) as (update, _):
        yield update


@contextlib.contextmanager
def progress_with_pause(
    unit: str, total: int, done: int = 0, text: str = ""
) -> Iterator[tuple[Callable[[int, str], None], Callable[[], contextlib.AbstractContextManager[None]]]]:
    """Show progress as :func:`progress_bar` does, with a pause for questions.

    Yields:
        The function of :func:`progress_bar`, and a function that returns a context without the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn(unit), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    description = TextColumn("{task.description}", markup=False)
    state, hidden = (done, text), not console.is_terminal
    with contextlib.ExitStack() as stack:
        bar = Progress(
            *columns, description, console=console, transient=True, disable=hidden, speed_estimate_period=_LONGEST_S
        )
        stack.enter_context(bar)
        line = bar.add_task(text, total=total, completed=done)
        if hidden:
            stack.enter_context(steady_lines(lambda: f"{unit} {state[0]} of {total}  {state[1]}".rstrip()))

        def update(now: int, text: str) -> None:
            nonlocal state
            bar.update(line, completed=now)
            left = bar.tasks[0].time_remaining
            rest = f"about {_duration(left)} left" if left else ""
            state = now, "  ".join(filter(None, (text, rest)))
            bar.update(line, description=state[1])

        @contextlib.contextmanager
        def pause() -> Iterator[None]:
            bar.stop()
            yield
            bar.start()

        yield update, pause


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
