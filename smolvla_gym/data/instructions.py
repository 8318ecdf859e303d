"""Instructions of a dataset, from ``meta/tasks.parquet``."""

from __future__ import annotations

from typing import Final

from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.tables import column_names, read_columns
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable

TASKS: Final = "tasks.parquet"


def read_instructions(info: DatasetInfo) -> dict[int, str]:
    """Return the instruction of each ``task_index``, in the order of the file.

    pandas writes the instructions as its index, with or without a name; other tools write an ordinary column.

    Raises:
        DatasetError: The file is missing or broken, or the column with the instructions is ambiguous.
    """
    path = info.meta / TASKS
    names = column_names(path)
    others = [name for name in names if name != "task_index"]
    column = next((name for name in ("task", "__index_level_0__") if name in names), others[0] if others else None)
    if column is None or (column not in ("task", "__index_level_0__") and len(others) > 1):
        raise DatasetError(
            f"{path} has the columns {printable(names, 100)}, and the instructions are expected in one named task. "
            "Take another copy of the dataset."
        )
    columns = read_columns(path, {"task_index": "integer", column: "text"})
    numbers = columns["task_index"].tolist()
    if len(set(numbers)) != len(numbers):
        raise DatasetError(f"{path} has a task_index twice. Take another copy of the dataset.")
    return dict(zip(numbers, columns[column].tolist(), strict=True))
