"""Rows of a dataset: the columns of its Parquet files, joined and sorted by episode and frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.tables import Kind, read_columns
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES

Columns = dict[str, NDArray[Any]]
"""Columns by name, each with one entry a frame along its first axis."""

INDEXES: Final[Mapping[str, Kind]] = {
    "episode_index": "integer", "frame_index": "integer", "task_index": "integer",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Rows of a dataset, sorted by episode and frame.

    Attributes:
        info: The dataset.
        episode_index: Episode of each row, shape (N,).
        frame_index: Frame in the episode of each row, shape (N,).
        task_index: Number of the instruction of each row, shape (N,).
        timestamps: Time in s in the episode of each row, shape (N,); None: the dataset has no such column.
        vectors: For ``observation.state`` and ``action``, as far as the dataset has them, the values, shape
            (N, components).
        slices: For each episode that has rows the slice of its rows.
    """

    info: DatasetInfo
    episode_index: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    task_index: NDArray[np.int64]
    timestamps: NDArray[np.float64] | None
    vectors: dict[str, NDArray[np.float64]]
    slices: dict[int, slice]

    @classmethod
    def of(cls, info: DatasetInfo, columns: Columns) -> Rows:
        """Return rows with the columns of :func:`row_columns`, which are sorted by episode and frame."""
        numbers, starts, counts = np.unique(columns["episode_index"], return_index=True, return_counts=True)
        ends = starts + counts
        return cls(
            info, columns["episode_index"], columns["frame_index"], columns["task_index"], columns.get("timestamp"),
            {name: columns[name] for name in (STATE, ACTION) if name in columns},
            dict(zip(numbers.tolist(), map(slice, starts.tolist(), ends.tolist()), strict=True)),
        )  # fmt: skip

    def first(self, mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int, int]]:
        """Yield episode, frame, component and number of the true entries of a mask, for each episode with some.

        Args:
            mask: Mask of a feature's values, shape (N, components); frame and component are of its first true entry.
        """
        for episode, where in self.slices.items():
            found = np.argwhere(mask[where])
            if len(found):
                yield episode, *found[0].tolist(), len(found)

    @property
    def is_parol6(self) -> bool:
        """Return whether the components are the joints and the gripper of this arm."""
        return STATE in self.vectors and all(
            self.info.features[name].names == ACTION_NAMES and values.shape[1] == len(ACTION_NAMES)
            for name, values in self.vectors.items()
        )

    def component(self, name: str, index: int) -> str:
        """Return the name of a component of a feature."""
        names = self.info.features[name].names
        return names[index] if names is not None and index < len(names) else f"component {index}"

    def ranges(self, name: str) -> NDArray[np.float64]:
        """Return the range of each component in the dataset, from quantile 0.005 to 0.995; shape (components,)."""
        ranges = []
        for values in self.vectors[name].T:
            finite = values[np.isfinite(values)]
            low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 0.0)
            ranges.append(float(high - low))
        return np.array(ranges)


def row_columns(info: DatasetInfo) -> dict[str, Kind]:
    """Return the columns that every reader needs: the indexes, and the vectors and time stamps that the dataset has."""
    wanted = dict(INDEXES)
    if "timestamp" in info.features:
        wanted["timestamp"] = "number"
    return wanted | {name: "vector" for name in (STATE, ACTION) if name in info.features}


def read_file_rows(info: DatasetInfo, path: Path, wanted: Mapping[str, Kind]) -> Columns:
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


def join_rows(tables: Sequence[Columns]) -> Columns | None:
    """Return the rows of several files sorted by episode and frame; None where there are no rows."""
    tables = [table for table in tables if len(table["episode_index"])]
    if not tables:
        return None
    rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    order = np.lexsort((rows["frame_index"], rows["episode_index"]))
    return {name: column[order] for name, column in rows.items()}
