"""Rows of a dataset for the checks: all rows of the files that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import ANOTHER_COPY, Finding, error
from smolvla_gym.data.files import FileReport
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.rows import join_rows, read_file_rows, row_columns
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.tables import column_names
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES


@dataclass(frozen=True)
class Rows:
    """All rows of the readable files, sorted by episode and frame.

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


def read_rows(info: DatasetInfo, report: FileReport) -> tuple[Rows | None, list[Finding]]:
    """Read the rows of all files that can be read.

    Returns:
        The rows, None where there are none; and the defects of the files.
    """
    findings: list[Finding] = []
    wanted = row_columns(info)
    tables = []
    for path in sorted({episode.data for episode in report.episodes} - report.problems.keys()):
        try:
            table = read_file_rows(info, path, wanted)
            if absent := sorted(_columns(info) - set(column_names(path))):
                findings.append(error("missing_column", f"{path} has no column {', '.join(absent[:3])}", ANOTHER_COPY))
        except DatasetError as problem:
            findings.append(error("unreadable_file", str(problem), ANOTHER_COPY))
            continue
        tables.append(table)
    columns = join_rows(tables)
    if columns is None:
        return None, findings
    vectors: dict[str, NDArray[np.float64]] = {n: columns[n] for n in (STATE, ACTION) if n in columns}
    return (
        Rows(
            info, columns["episode_index"], columns["frame_index"], columns["task_index"], columns.get("timestamp"),
            vectors, dict(_slices(columns["episode_index"])),
        ),
        findings,
    )  # fmt: skip


def _columns(info: DatasetInfo) -> set[str]:
    """Return the features that are columns; LeRobot may leave out the optional ones, whose values are language."""
    return {name for name, feature in info.features.items() if feature.dtype not in ("video", "language", "string")}


def _slices(episodes: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    numbers, starts, counts = np.unique(episodes, return_index=True, return_counts=True)
    for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
        yield number, slice(start, start + count)
