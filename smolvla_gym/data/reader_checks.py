"""Checks of a dataset before training: what would fail late, or teach the policy something else, is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.files import RATE_TOLERANCE, EpisodeFiles, video_mismatches
from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.data.instructions import TASKS
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, UNITS
from smolvla_gym.data.units import MAX_ANGLE, OPENING_RANGE
from smolvla_gym.data.video import VideoHeader
from smolvla_gym.errors import DatasetError
from smolvla_gym.parol6 import ACTION_NAMES
from smolvla_gym.utils.untrusted import printable


def check_arm(info: DatasetInfo) -> None:
    """Refuse a dataset of another robot, with other units, without cameras or videos, or without episodes.

    Raises:
        DatasetError: The dataset is one of these.
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
        problems.append("no camera")
    if problems:
        raise DatasetError(
            f"The dataset in {info.root} is not of this arm: {'; '.join(problems)}. If its components are "
            "this arm's, convert it: `smolvla-gym train` and `smolvla-gym dataset convert` take --units degrees or "
            "--units rad and --rename OLD=NEW for each name that differs. Otherwise record one with "
            "`smolvla-gym record`."
        )
    info.require_videos(IMAGES + name for name in info.cameras)
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
        DatasetError: A frame is missing, or is there twice, or the time stamps have another rate.
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
            f"{info.meta / 'info.json'} says {info.fps} Hz, and the time stamps are {found}. A policy would act at the "
            "wrong speed: correct fps if it was edited, or record the dataset again."
        )


def check_videos(info: DatasetInfo, episodes: Sequence[EpisodeFiles], headers: Mapping[Path, VideoHeader]) -> None:
    """Refuse videos whose size or rate is not the one in ``info.json``.

    Raises:
        DatasetError: A video is one of these.
    """
    advice = {
        "size": "Correct the shape, or record the dataset again.",
        "rate": "A policy would act at the wrong speed: correct fps if it was edited, or record the dataset again.",
    }
    for _, kind, text in video_mismatches(info, episodes, headers):
        raise DatasetError(f"In {info.root} {text}. {advice[kind]}")


def check_instructions(info: DatasetInfo, used: Sequence[int], instructions: Mapping[int, str]) -> None:
    """Refuse frames without an instruction.

    Args:
        info: The dataset.
        used: The values of ``task_index`` that occur.
        instructions: The instruction of each ``task_index``.

    Raises:
        DatasetError: An instruction is missing or empty.
    """
    path = info.meta / TASKS
    for number in used:
        if number not in instructions:
            raise DatasetError(
                f"Frames in {info.root} have task_index {number}, and {path} has no such instruction. "
                "Take another copy of the dataset."
            )
        if not instructions[number].strip():
            raise DatasetError(
                f"The instruction of task_index {number} in {path} is empty, and a policy needs one. "
                "Name the task with lerobot-edit-dataset --operation.type modify_tasks."
            )


def check_values(
    root: Path, name: str, rows: NDArray[np.float32], episodes: NDArray[Any], frames: NDArray[Any]
) -> None:
    """Refuse values that are not finite or not in the units of this arm.

    Args:
        root: The dataset's folder.
        name: The feature.
        rows: Values of the feature, shape (N, 7).
        episodes: The episode of each row, shape (N,).
        frames: The frame in that episode of each row, shape (N,).

    Raises:
        DatasetError: A value is one of these.
    """
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, part = bad[0]
        raise DatasetError(
            f"{name} in {root} is {rows[row, part]} in {ACTION_NAMES[part]}, episode {episodes[row]}, frame "
            f"{frames[row]} ({len(bad)} such values in all). Remove the episode with LeRobot's lerobot-edit-dataset."
        )
    largest = float(np.abs(rows[:, :-1]).max())
    if largest > MAX_ANGLE:
        raise DatasetError(
            f"{name} in {root} has joint angles up to {largest:.0f}: they seem to be in degrees, and rad is "
            "expected. Convert the dataset with --units degrees, or record it with `smolvla-gym record`."
        )
    opening = rows[:, -1]
    if opening.min() < OPENING_RANGE[0] or opening.max() > OPENING_RANGE[1]:
        raise DatasetError(
            f"{name} in {root} has gripper openings from {opening.min():g} to {opening.max():g}: openings "
            "from 0 (closed) to 1 (open) are expected, not percent or mm. Convert the dataset (--units degrees "
            "converts joints in degrees and percent), or record it with `smolvla-gym record`."
        )
