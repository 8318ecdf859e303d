"""The progress of commands that take long: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

EVERY_S: Final = 20.0
"""Time in s from one line to the next where standard error is no terminal, whether or not anything has changed."""


@contextlib.contextmanager
def steady_lines(text: Callable[[], str], every_s: float | None = None) -> Iterator[None]:
    """Print a line to standard error at a fixed interval while the block runs, also while it waits for something.

    Args:
        text: Called for what the line says.
        every_s: Time in s between two lines; None: ``EVERY_S``.
    """
    began, over = time.monotonic(), threading.Event()

    def run() -> None:
        while not over.wait(EVERY_S if every_s is None else every_s):
            minutes, seconds = divmod(round(time.monotonic() - began), 60)
            with contextlib.suppress(OSError, ValueError):  # nobody reads it, or the stream is closed
                print(f"smolvla-gym: {text()}  ({minutes}:{seconds:02d})", file=sys.stderr, flush=True)

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def progress_bar(unit: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show a bar on standard error, or where that is no terminal a line at a fixed interval.

    Args:
        unit: What is counted, such as ``"episode"``.
        total: How many there will be.
        done: How many there are already.

    Yields:
        A function that takes how many are done now and what else there is to say.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn(unit),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    state = (done, "")
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not console.is_terminal))
        line = bar.add_task("", total=total, completed=done)
        if not console.is_terminal:
            stack.enter_context(steady_lines(lambda: f"{unit} {state[0]} of {total}  {state[1]}".rstrip()))

        def update(now: int, text: str) -> None:
            nonlocal state
            state = now, text
            bar.update(line, completed=now, description=text)

        yield update
