"""``smolvla-gym eval``: the journal of an evaluation, resuming, and the progress that is shown."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolvla_gym.cli.options.parser import UsageError
from smolvla_gym.cli.options.resuming import kept_values, restore
from smolvla_gym.cli.progress import progress_bar

if TYPE_CHECKING:
    from smolvla_gym.cli.commands.evaluate import EvalOptions
    from smolvla_gym.evaluation.conditions import Condition, Outcome
    from smolvla_gym.evaluation.journal import EpisodeJournal


def resume(options: EvalOptions) -> None:
    """Restore the options of an evaluation that resumes; refuse to overwrite one that was stopped."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, read_head

    if isinstance(options.resume, Path):
        if options.out not in (None, options.resume):
            options.refuse("out", f"expected {options.resume}, as with --resume, or nothing")
        options.out = options.resume
    out = options.out
    if not options.resume:
        if out is not None and (path := out / JOURNAL_NAME).is_file() and path.stat().st_size:
            _, there, total = read_head(path)
            if there < total:
                allowed = f"another folder, or --resume: it has {there} of {total} episodes of an evaluation"
                options.expect("out", f"{allowed} that was stopped, or that another program still runs")
        return
    if out is None or not out.is_dir():
        raise UsageError("--resume", out, "expected the folder of an evaluation")
    before, _, _ = read_head(out / JOURNAL_NAME)
    restore(options, before, out / JOURNAL_NAME)
    for name, value in _origin(options).items():
        if before.get(name) != value:
            what = "the version of smolvla-gym" if name == "version" else f"the weights of a policy ({name})"
            raise UsageError("--resume", out, f"{what} differs from the beginning; begin anew in another folder")


def _origin(options: EvalOptions) -> dict[str, Any]:
    """Return what decides about the results beside the options."""
    from smolvla_gym import __version__
    from smolvla_gym.evaluation.journal import digest

    return {
        "version": __version__,
        "digest of --policy": digest(options.policy),
        "digest of --vs": None if options.vs is None else digest(options.vs),
    }


@contextlib.contextmanager
def open_journal(options: EvalOptions, out: Path, total: int) -> Iterator[EpisodeJournal]:
    """Open the journal of the episodes; an exception carries a note that says how the evaluation resumes."""
    from smolvla_gym.evaluation.journal import JOURNAL_NAME, EpisodeJournal

    path = out / JOURNAL_NAME
    head = kept_values(options) | _origin(options)
    with EpisodeJournal.resume(path) if options.resume else EpisodeJournal(path, head, total) as journal:
        try:
            yield journal
        except BaseException as error:
            if journal.done:
                count = f"{len(journal.done)} of {total} episodes are kept"
                # A module is not imported because a file names it.
                own = ["--task", *options.task] if any(":" in task for task in options.task) else []
                command = shlex.join(["smolvla-gym", "eval", "--resume", str(out), *own])
                error.add_note(f"{count}; {command} goes on")
            raise


@contextlib.contextmanager
def show_progress(
    journal: EpisodeJournal, began: float, episodes: int, policy: str
) -> Iterator[Callable[[int, Condition, Outcome], None]]:
    """Yield a function that takes each outcome: it adds it to the journal and shows how far the evaluation is."""
    with progress_bar("episode", episodes, len(journal.done), f"loading policy {policy}") as show:
        successes = sum(outcome.success for outcome in journal.done.values())

        def update(number: int, condition: Condition, outcome: Outcome) -> None:
            nonlocal successes
            journal.add(number, condition, outcome, time.monotonic() - began)
            successes += outcome.success
            text = f"{condition.task} {condition.mode} {condition.latency_ms:g} ms  succeeded {successes}"
            show(len(journal.done), text)

        yield update
