"""A recorded LeRobot dataset as training data: checked before any training starts, and decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import EpisodeFiles, FileReport, examine_files, read_sentences
from smolvla_gym.data.info import IMAGES, DatasetInfo, read_info
from smolvla_gym.data.reader_checks import (
    check_arm,
    check_frames,
    check_sentences,
    check_values,
    check_videos,
)
from smolvla_gym.data.seeds import read_seeds
from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.data.tables import Kind, read_columns
from smolvla_gym.data.transaction import settled_meta
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES

_COLUMNS: Final[Mapping[str, Kind]] = {
    STATE: "vector", ACTION: "vector", "episode_index": "integer", "task_index": "integer", "frame_index": "integer",
}  # fmt: skip
_SAME_AGAIN: Final = "Take another copy of the dataset."


@dataclass(frozen=True)
class Recording:
    """A dataset that can be trained on.

    Attributes:
        root: Its folder.
        fps: Frames a second.
        cameras: Names of its cameras.
        image_size: Height and width in px of the pictures of the first one.
        episodes: Number of complete episodes.
        lengths: Their frames.
        states: ``agent_pos`` of all frames, shape (N, 7).
        actions: The action of each, shape (N, 7).
        instructions: The sentences that occur.
        instruction_ids: Index into them of each frame, shape (N,).
        lost: What was found cut off and left out, in words; None: nothing.
        files: Where each episode is.
        missing: Number of episodes that were left out because a file of theirs is not whole.
        info: What ``meta/info.json`` says.
        scenes: What ``meta/parol6.json`` says; empty: there is none.
        seeds: Seeds of the episodes; None: they are not known of all, as after a merge by LeRobot.
        gripper: The gripper that was mounted; None: unknown.
        num_objects: Objects on the table; None: unknown.
        randomization: Level of the env's randomisation; None: unknown.
    """

    root: Path
    fps: int
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    lengths: tuple[int, ...]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: tuple[str, ...]
    instruction_ids: NDArray[np.int64]
    lost: str | None
    files: tuple[EpisodeFiles, ...]
    missing: int
    info: DatasetInfo
    scenes: Mapping[str, Any]
    seeds: frozenset[int] | None = None
    gripper: str | None = None
    num_objects: int | None = None
    randomization: int | None = None

    @property
    def digest(self) -> str:
        """A name for what was recorded: other motions have another one."""
        return hashlib.sha256(self.states.tobytes() + self.actions.tobytes()).hexdigest()[:16]

    @property
    def episodes(self) -> int:
        """Number of complete episodes."""
        return len(self.lengths)

    def __len__(self) -> int:
        """Returns the number of frames."""
        return len(self.states)


def open_recording(root: str | Path) -> Recording:
    """Read the complete episodes of a dataset but their images, of which only the files are looked at.

    Nothing is changed in the folder. An episode whose writing was cut off by a crash, and episodes whose files are
    missing or cut off, as in half a copy, are left out.

    Args:
        root: Its folder.

    Raises:
        DatasetError: There is no dataset, it is empty or of another arm, no episode is complete, or it contradicts
            itself or holds what nothing can be learnt from.
        MissingExtraError: The extra ``train`` is not installed.
    """
    root = Path(root)
    meta, lost = settled_meta(root)
    info = read_info(root, meta)
    check_arm(info)
    scenes = read_seeds(root, meta)
    report = examine_files(info)
    complete = report.complete
    if not complete:
        raise DatasetError(
            f"The dataset in {root} cannot be read: no episode is complete: "
            f"{_first(root, report) or 'meta/episodes is empty'}. Take another copy of it, or record it again."
        )
    columns = _read_rows(info, complete)
    found = len(columns["episode_index"])
    expected = sum(episode.length for episode in complete) if report.problems else info.total_frames
    if found != expected:
        raise DatasetError(f"The dataset in {root} should have {expected} frames and has {found}. {_SAME_AGAIN}")
    if len(report.episodes) > info.total_episodes or (
        len(report.episodes) < info.total_episodes and not report.problems
    ):
        raise DatasetError(
            f"{meta / 'info.json'} says {info.total_episodes} episodes, and meta/episodes names "
            f"{len(report.episodes)}. {_SAME_AGAIN}"
        )
    missing = info.total_episodes - len(complete)
    if report.problems:
        away = f"{missing} episodes of {info.total_episodes}: {_first(root, report)}"
        lost = f"{lost} and {away}" if lost else away
    check_frames(info, complete, columns)
    check_videos(info, complete, report.headers)
    values = {STATE: columns[STATE].astype(np.float32), ACTION: columns[ACTION].astype(np.float32)}
    for name, rows in values.items():
        if rows.shape[1] != len(ACTION_NAMES):
            raise DatasetError(f"{name} in {root} has {rows.shape[1]} components, not {len(ACTION_NAMES)}.")
        check_values(root, name, rows, columns["episode_index"], columns["frame_index"])
    instructions, instruction_ids = _instructions(info, columns["task_index"])
    seeds = [int(episode["seed"]) for episode in scenes.get("episodes", [])]
    return Recording(
        root, info.fps, info.cameras, info.features[IMAGES + info.cameras[0]].image_size,
        tuple(episode.length for episode in complete), values[STATE], values[ACTION], instructions, instruction_ids,
        lost, complete, missing, info, scenes,
        seeds=frozenset(seeds) if len(seeds) == info.total_episodes else None,
        **{name: scenes.get(name) for name in ("gripper", "num_objects", "randomization")},
    )  # fmt: skip


def _read_rows(info: DatasetInfo, episodes: Sequence[EpisodeFiles]) -> dict[str, NDArray[Any]]:
    """Return the rows of episodes, sorted by episode and frame."""
    wanted: dict[str, Kind] = dict(_COLUMNS)
    if "timestamp" in info.features:
        wanted["timestamp"] = "number"
    tables = [read_columns(file, wanted) for file in sorted({episode.data for episode in episodes})]
    for name in (STATE, ACTION):
        if len(widths := {table[name].shape[1] for table in tables if len(table[name])}) > 1:
            raise DatasetError(f"{name} in {info.root} has {sorted(widths)} components in different files.")
    columns = {
        name: np.concatenate([table[name] for table in tables if len(table[name])] or [tables[0][name]])
        for name in wanted
    }
    whole = np.flatnonzero(np.isin(columns["episode_index"], [episode.index for episode in episodes]))
    order = whole[np.lexsort((columns["frame_index"][whole], columns["episode_index"][whole]))]
    return {name: column[order] for name, column in columns.items()}


def _instructions(info: DatasetInfo, task_index: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the sentences that occur, and for each frame the index into them."""
    by_number = read_sentences(info)
    used, which = np.unique(task_index, return_inverse=True)
    check_sentences(info, used.tolist(), by_number)
    sentences = tuple(dict.fromkeys(by_number[number] for number in used.tolist()))
    numbers = np.array([sentences.index(by_number[number]) for number in used.tolist()], dtype=np.int64)
    return sentences, numbers[which]


def _first(root: Path, report: FileReport) -> str:
    """Say what is wrong with the first files."""
    said = [f"{path.relative_to(root)} {problem}" for path, problem in report.problems.items()]
    return "; ".join([*said[:3], *([f"{len(said) - 3} files more"] if len(said) > 3 else [])])
