"""What a dataset has to be so that this arm can learn from it; each contradiction is refused before training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import EpisodeFiles
from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, UNITS
from smolvla_gym.data.video import VideoHeader
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.untrusted import printable

RATE_TOLERANCE: Final = 0.02
"""Share by which the rate of timestamps and videos may differ from ``info.json``."""

GUESSED_DEGREES: Final = 4 * np.pi
"""Largest joint angle that can be in rad; the arm's widest joint turns by 2 pi at most."""


def check_arm(info: DatasetInfo) -> None:
    """Refuse a dataset of another robot, with other units, without cameras, or without episodes.

    Raises:
        DatasetError: It is one.
    """
    problems = []
    if info.robot_type != ROBOT_TYPE:
        problems.append(f"robot_type is {info.robot_type!r:.60}, not {ROBOT_TYPE!r}")
    for name in (STATE, ACTION):
        feature = info.features.get(name)
        if feature is None:
            problems.append(f"{name} is missing")
            continue
        if feature.shape != (len(ACTION_NAMES),):
            problems.append(f"{name} has shape {list(feature.shape)}, not [{len(ACTION_NAMES)}]")
        if feature.names != ACTION_NAMES:
            problems.append(f"names of {name} are {printable(feature.names)}, not {list(ACTION_NAMES)}")
        if feature.units not in (None, UNITS):
            problems.append(f"units of {name} are {printable(feature.units)}, not {list(UNITS)}")
    if not info.cameras:
        problems.append("it has no camera")
    if problems:
        raise DatasetError(
            f"The dataset in {info.root} is none of this arm: {'; '.join(problems)}. If its components are "
            "this arm's, convert it: `smolvla-gym train` and `smolvla-gym dataset convert` take --units degrees or "
            "--units rad and --rename OLD=NEW for each name that differs. Otherwise record one with "
            "`smolvla-gym record`."
        )
    if stored := [name for name in info.cameras if info.features[IMAGES + name].dtype != "video"]:
        raise DatasetError(
            f"The images of the camera {stored[0]} in {info.root} are in Parquet files (dtype image), and videos are "
            "needed. LeRobot makes them: lerobot-edit-dataset --operation.type convert_image_to_video."
        )
    if not info.total_episodes:
        raise DatasetError(
            f"The dataset in {info.root} is empty. Record some episodes with `smolvla-gym record` first."
        )


def check_frames(info: DatasetInfo, episodes: Sequence[EpisodeFiles], columns: Mapping[str, NDArray[Any]]) -> None:
    """Refuse episodes whose rows are not the frames 0, 1, 2, ... that ``meta/episodes`` counts, at the dataset's rate.

    Args:
        info: The dataset.
        episodes: Its episodes, in the order of their numbers.
        columns: Their rows, sorted by episode and frame.

    Raises:
        DatasetError: A frame is missing, too many, or twice, or the timestamps are of another rate.
    """
    numbers, lengths = np.unique(columns["episode_index"], return_counts=True)
    counted = dict(zip(numbers.tolist(), lengths.tolist(), strict=True))
    for episode in episodes:
        if counted.get(episode.index, 0) != episode.length:
            raise DatasetError(
                f"Episode {episode.index} in {info.root} should have {episode.length} frames and has "
                f"{counted.get(episode.index, 0)} rows. Take another copy of the dataset."
            )
    ends = np.cumsum([episode.length for episode in episodes])
    expected = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    wrong = np.flatnonzero(columns["frame_index"] != expected)
    if len(wrong):
        raise DatasetError(
            f"Frame {expected[wrong[0]]} of episode {columns['episode_index'][wrong[0]]} in {info.root} is missing. "
            "Take another copy of the dataset."
        )
    if "timestamp" in columns:
        _check_timestamps(info, columns["timestamp"], expected)


def _check_timestamps(info: DatasetInfo, times: NDArray[np.float64], frames: NDArray[np.int64]) -> None:
    steps = np.diff(times)[np.diff(frames) == 1]
    period = float(np.median(steps)) if len(steps) else 1 / info.fps
    if not np.isfinite(period) or abs(period * info.fps - 1) > RATE_TOLERANCE:
        found = f"at {1 / period:.4g} Hz" if period > 0 else f"{period:g} s apart"
        raise DatasetError(
            f"{info.meta / 'info.json'} says {info.fps} Hz, and the timestamps are {found}. A policy would act at the "
            "wrong speed: correct fps if it was edited, or record the dataset again."
        )


def check_videos(info: DatasetInfo, episodes: Sequence[EpisodeFiles], headers: Mapping[Path, VideoHeader]) -> None:
    """Refuse videos whose size or rate is not the one in ``info.json``.

    Raises:
        DatasetError: There is one.
    """
    for name in info.videos:
        size = info.features[name].image_size
        for path in sorted({episode.videos[name] for episode in episodes}):
            header = headers[path]
            if (header.height, header.width) != size:
                raise DatasetError(
                    f"{path} has frames of {header.height}x{header.width}, and info.json says {size[0]}x{size[1]} for "
                    f"{name}. Correct the shape, or record the dataset again."
                )
            if header.fps is not None and abs(header.fps / info.fps - 1) > RATE_TOLERANCE:
                raise DatasetError(
                    f"{info.meta / 'info.json'} says {info.fps} Hz, and {path} has {header.fps:.4g} frames a second. "
                    "A policy would act at the wrong speed: correct fps if it was edited, or record the dataset again."
                )


def check_sentences(info: DatasetInfo, used: Sequence[int], sentences: Mapping[int, str]) -> None:
    """Refuse frames without an instruction.

    Args:
        info: The dataset.
        used: The values of ``task_index`` that occur.
        sentences: The sentence of each.

    Raises:
        DatasetError: There is no sentence, or an empty one.
    """
    path = info.meta / "tasks.parquet"
    for number in used:
        if number not in sentences:
            raise DatasetError(
                f"Frames in {info.root} have task_index {number}, and {path} has no such sentence. "
                "Take another copy of the dataset."
            )
        if not sentences[number].strip():
            raise DatasetError(
                f"The instruction of task_index {number} in {path} is empty, and a policy is asked in words. "
                "Name the task with lerobot-edit-dataset --operation.type modify_tasks."
            )


def check_values(
    root: Path, name: str, rows: NDArray[np.float32], episodes: NDArray[Any], frames: NDArray[Any]
) -> None:
    """Refuse values that are not finite or not in the units of this arm.

    Args:
        root: The dataset's folder.
        name: The feature.
        rows: Its values, shape (N, 7).
        episodes: The episode of each row.
        frames: Its frame in that episode.

    Raises:
        DatasetError: There is one.
    """
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, part = bad[0]
        raise DatasetError(
            f"{name} in {root} is {rows[row, part]} in {ACTION_NAMES[part]}, episode {episodes[row]}, frame "
            f"{frames[row]} ({len(bad)} such values in all). Remove the episode with LeRobot's lerobot-edit-dataset."
        )
    largest = float(np.abs(rows[:, :-1]).max())
    if largest > GUESSED_DEGREES:
        raise DatasetError(
            f"{name} in {root} has joint angles up to {largest:.0f}: they seem to be in degrees, and here they are in "
            "rad. Convert the dataset with --units degrees, or record it with `smolvla-gym record`."
        )
    opening = rows[:, -1]
    if opening.min() < -0.1 or opening.max() > 1.1:  # a measured one may be a little beyond the ends
        raise DatasetError(
            f"{name} in {root} has gripper openings from {opening.min():g} to {opening.max():g}: here they go from 0, "
            "closed, to 1, open, and not in percent or mm. Convert the dataset (--units degrees converts joints in "
            "degrees and percent), or record it with `smolvla-gym record`."
        )
