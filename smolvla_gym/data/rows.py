"""Rows of a dataset: the columns of its Parquet files, joined and sorted by episode and frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.tables import Kind, read_columns
from smolvla_gym.errors import DatasetError

Rows = dict[str, NDArray[Any]]
"""Columns by name, each with one entry a frame along its first axis."""

INDEXES: Final[Mapping[str, Kind]] = {
    "episode_index": "integer", "frame_index": "integer", "task_index": "integer",
}  # fmt: skip


def row_columns(info: DatasetInfo) -> dict[str, Kind]:
    """Return the columns that every reader needs: the indexes, and the vectors and time stamps that the dataset has."""
    wanted = dict(INDEXES)
    if "timestamp" in info.features:
        wanted["timestamp"] = "number"
    return wanted | {name: "vector" for name in (STATE, ACTION) if name in info.features}


def read_file_rows(info: DatasetInfo, path: Path, wanted: Mapping[str, Kind]) -> Rows:
    """Return the rows of one Parquet file.

    Args:
        info: The dataset.
        path: The file.
        wanted: The columns.

    Raises:
        DatasetError: The file cannot be read, or a vector has another size than ``meta/info.json`` says.
    """
    rows = read_columns(path, wanted)
    for name, kind in wanted.items():
        size = info.features[name].size if kind == "vector" else None
        if size is not None and len(rows[name]) and rows[name].shape[1] != size:
            raise DatasetError(
                f"{path} has {rows[name].shape[1]} components of {name}, and info.json says {size}. Take another copy "
                "of the dataset."
            )
    return rows


def join_rows(tables: Sequence[Rows]) -> Rows | None:
    """Return the rows of several files sorted by episode and frame; None where there are no rows."""
    tables = [table for table in tables if len(table["episode_index"])]
    if not tables:
        return None
    rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.lexsort((rows["frame_index"], rows["episode_index"]))
    return {name: column[order] for name, column in rows.items()}
