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

_ESTIMATE_S: Final = 5.0
"""Time in s that has to be measured before the rest is estimated."""


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


class Remaining:
    """Estimate of the time that the rest takes, from the mean rate since the second report.

    The first report ends the warm-up: what came before it, such as loading and compiling, does not come again.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._first: tuple[float, int] | None = None
        self._text = ""

    def update(self, done: int, now: float | None = None) -> str:
        """Return the estimate as a text, empty until it means something.

        Args:
            done: How much is done.
            now: Time in s; None: that of the clock.
        """
        now = time.monotonic() if now is None else now
        if self._first is None:
            self._first = now, done
        began, before = self._first
        if done > before and now - began >= _ESTIMATE_S:
            seconds = (self._total - done) * (now - began) / (done - before)
            self._text = f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
        return self._text if done < self._total else ""


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
    remaining, state = Remaining(total), (done, text)
    with contextlib.ExitStack() as stack:
        bar = Progress(*columns, description, console=console, transient=True, disable=not console.is_terminal)
        stack.enter_context(bar)
        line = bar.add_task(text, total=total, completed=done)
        if not console.is_terminal:
            stack.enter_context(steady_lines(lambda: f"{unit} {state[0]} of {total}  {state[1]}".rstrip()))

        def update(now: int, text: str) -> None:
            nonlocal state
            state = now, "  ".join(filter(None, (text, remaining.update(now))))
            bar.update(line, completed=now, description=state[1])

        @contextlib.contextmanager
        def pause() -> Iterator[None]:
            bar.stop()
            yield
            bar.start()

        yield update, pause
