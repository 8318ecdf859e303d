"""The progress bar of commands that take long."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(unit: str, total: int, done: int = 0, every: int = 25) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar on stderr, or where that is no terminal a line now and then.

    Args:
        unit: What is counted, such as ``"episode"``.
        total: How many there will be.
        done: How many there are already.
        every: How many calls of what this gives from one line to the next.

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
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        line = bar.add_task("", total=total, completed=done)
        calls = 0

        def update(now: int, text: str) -> None:
            nonlocal calls
            calls += 1
            bar.update(line, completed=now, description=text)
            if not console.is_terminal and calls % every == 0:
                console.print(f"{unit} {now} of {total}  {text}", markup=False, highlight=False, soft_wrap=True)

        yield update
