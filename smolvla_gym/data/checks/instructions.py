"""Check the instructions: empty, there twice, or missing for some frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.instructions import TASKS, read_instructions
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.tables import open_parquet, reading
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable


def read_table(info: DatasetInfo) -> tuple[dict[int, str] | None, list[Finding]]:
    """Read ``meta/tasks.parquet``.

    Returns:
        The instruction of each number, None where the file cannot be read; and the defects of the file.
    """
    path = info.meta / TASKS
    try:
        instructions = read_instructions(info)
        with reading(path), contextlib.closing(open_parquet(path)) as file:
            indexed = b"pandas" in (file.schema_arrow.metadata or {})
    except DatasetError as problem:
        return None, [finding("unreadable_file", str(problem))]
    if indexed:
        return instructions, []
    return instructions, [finding("tasks_without_index", f"LeRobot reads numbers as the instructions of meta/{TASKS}")]


def check_instructions(instructions: Mapping[int, str], rows: Rows | None) -> Iterator[Finding]:
    """Find instructions in another order than LeRobot's, and the defects of :func:`check_sentences`."""
    if list(instructions) != list(range(len(instructions))):
        yield finding(
            "task_order",
            f"the rows of meta/{TASKS} have task_index {printable(list(instructions)[:5], 60)}, and LeRobot expects "
            "the order 0, 1, 2, ...",
        )
    yield from check_sentences(instructions, rows)


def check_sentences(instructions: Mapping[int, str], rows: Rows | None) -> Iterator[Finding]:
    """Find instructions that are empty or there twice, and frames without an instruction."""
    seen: dict[str, int] = {}
    for number, text in instructions.items():
        plain = " ".join(text.split()).casefold()
        if not plain:
            yield finding("empty_sentence", f"the instruction of task_index {number} in meta/{TASKS} is empty")
        elif plain in seen:
            yield finding(
                "duplicate_sentence",
                f"task_index {seen[plain]} and {number} have the same instruction {printable(text, 80)!r}",
            )
        seen.setdefault(plain, number)
    if rows is None:
        return
    for number in np.unique(rows.task_index).tolist():
        if number not in instructions:
            first = int(np.flatnonzero(rows.task_index == number)[0])
            yield finding(
                "unknown_task",
                f"the frames have task_index {number}, and meta/{TASKS} has no such instruction",
                int(rows.episode_index[first]),
                int(rows.frame_index[first]),
            )
