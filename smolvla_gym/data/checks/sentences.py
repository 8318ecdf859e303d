"""The instructions: empty, twice, or not those that the frames name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from smolvla_gym.data.checks.finding import ANOTHER_COPY, Finding, error, warning
from smolvla_gym.data.checks.rows import Rows
from smolvla_gym.data.files import read_sentences
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.tables import open_parquet, reading
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable

_MODIFY = "name the task with lerobot-edit-dataset --operation.type modify_tasks"


def read_table(info: DatasetInfo) -> tuple[dict[int, str] | None, list[Finding]]:
    """Read ``meta/tasks.parquet``; returns the sentence of each number, None where it cannot be read."""
    path = info.meta / "tasks.parquet"
    try:
        sentences = read_sentences(info)
        with reading(path), contextlib.closing(open_parquet(path)) as file:
            indexed = b"pandas" in (file.schema_arrow.metadata or {})
    except DatasetError as problem:
        return None, [error("unreadable_file", str(problem), ANOTHER_COPY)]
    if indexed:
        return sentences, []
    advice = "write the table with pandas, with the sentences as its index"
    return sentences, [
        error("tasks_without_index", "LeRobot reads numbers as the sentences of meta/tasks.parquet", advice)
    ]


def check_sentences(sentences: Mapping[int, str], rows: Rows | None) -> Iterator[Finding]:
    """Find sentences that are empty or there twice, and frames without one."""
    if list(sentences) != list(range(len(sentences))):
        yield error(
            "task_order",
            f"the rows of meta/tasks.parquet have task_index {printable(list(sentences)[:5], 60)}, and LeRobot takes "
            "them in the order 0, 1, 2, ...",
            ANOTHER_COPY,
        )
    seen: dict[str, int] = {}
    for number, text in sentences.items():
        plain = " ".join(text.split()).casefold()
        if not plain:
            yield error("empty_sentence", f"the sentence of task_index {number} is empty", _MODIFY)
        elif plain in seen:
            yield warning(
                "duplicate_sentence",
                f"task_index {seen[plain]} and {number} have the same sentence {printable(text, 80)!r}",
                _MODIFY,
            )
        seen.setdefault(plain, number)
    if rows is None:
        return
    for number in np.unique(rows.task_index).tolist():
        if number not in sentences:
            first = int(np.flatnonzero(rows.task_index == number)[0])
            yield error(
                "unknown_task",
                f"the frames have task_index {number}, and meta/tasks.parquet has no such sentence",
                ANOTHER_COPY,
                episode=int(rows.episode_index[first]),
                frame=int(rows.frame_index[first]),
            )
