"""The rows of a dataset, as far as they can be read, for the checks of values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import ANOTHER_COPY, Finding, error
from smolvla_gym.data.files import FileReport
from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.tables import Kind, column_names, read_columns
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES

_INDEXES = ("episode_index", "frame_index", "task_index")


@dataclass(frozen=True)
class Rows:
    """All rows that can be read, sorted by episode and frame.

    Attributes:
        info: The dataset.
        episode_index: Episode of each row, shape (N,).
        frame_index: Frame in the episode of each, shape (N,).
        task_index: Number of the sentence of each, shape (N,).
        timestamps: Time in s of each in its episode, shape (N,); None: there is no such column.
        vectors: For ``observation.state`` and ``action``, where they are there, their values, shape (N, components).
        slices: For each episode that has rows where they are.
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
        """Tells whether the components are the joints and the gripper of this arm."""
        return STATE in self.vectors and all(
            self.info.features[name].names == ACTION_NAMES and values.shape[1] == len(ACTION_NAMES)
            for name, values in self.vectors.items()
        )

    def component(self, name: str, index: int) -> str:
        """Return the name of a component of a feature."""
        names = self.info.features[name].names
        return names[index] if names is not None and index < len(names) else f"component {index}"

    def ranges(self, name: str) -> NDArray[np.float64]:
        """Return how far each component moves in the dataset, without its outermost percent; shape (components,)."""
        ranges = []
        for values in self.vectors[name].T:
            finite = values[np.isfinite(values)]
            low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 0.0)
            ranges.append(float(high - low))
        return np.array(ranges)


def read_rows(info: DatasetInfo, report: FileReport) -> tuple[Rows | None, list[Finding]]:
    """Read the rows of all files that can be read.

    Returns:
        The rows, None where there are none, and what is wrong with the files.
    """
    findings: list[Finding] = []
    wanted: dict[str, Kind] = dict.fromkeys(_INDEXES, "integer")
    if "timestamp" in info.features:
        wanted["timestamp"] = "number"
    vectors = [name for name in (STATE, ACTION) if name in info.features]
    wanted |= dict.fromkeys(vectors, "vector")
    tables = []
    for path in sorted({episode.data for episode in report.episodes} - report.problems.keys()):
        try:
            table = read_columns(path, wanted)
            for name in vectors:
                if table[name].shape[1] != info.features[name].size:
                    raise DatasetError(
                        f"{path} has {table[name].shape[1]} components of {name}, and info.json says "
                        f"{info.features[name].size}"
                    )
            if absent := sorted(_columns(info) - set(column_names(path))):
                findings.append(error("missing_column", f"{path} has no column {', '.join(absent[:3])}", ANOTHER_COPY))
        except DatasetError as problem:
            findings.append(error("unreadable_file", str(problem), ANOTHER_COPY))
            continue
        tables.append(table)
    if not tables or not sum(len(table["episode_index"]) for table in tables):
        return None, findings
    columns = {name: np.concatenate([table[name] for table in tables]) for name in wanted}
    order = np.lexsort((columns["frame_index"], columns["episode_index"]))
    columns = {name: column[order] for name, column in columns.items()}
    return (
        Rows(
            info, columns["episode_index"], columns["frame_index"], columns["task_index"], columns.get("timestamp"),
            {name: columns[name] for name in vectors}, dict(_slices(columns["episode_index"])),
        ),
        findings,
    )  # fmt: skip


def _columns(info: DatasetInfo) -> set[str]:
    """Return the features that are columns; LeRobot may leave out the optional ones, whose values are language."""
    return {
        name for name, feature in info.features.items() if feature.dtype not in ("video", "language", "string")
    }  # fmt: skip


def _slices(episodes: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    numbers, starts, counts = np.unique(episodes, return_index=True, return_counts=True)
    for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
        yield number, slice(start, start + count)
