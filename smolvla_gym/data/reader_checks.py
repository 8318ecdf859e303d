"""Checks of a dataset before training: what would fail late, or teach the policy something else, is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smolvla_gym.data.checks.times import wrong_rate
from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.data.instructions import TASKS
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.spec import ACTION, ROBOT_TYPE, STATE, UNITS
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


def check_rate(rows: Rows) -> None:
    """Refuse time stamps whose rate is not that of the dataset.

    Raises:
        DatasetError: The rate is another one.
    """
    info, times = rows.info, rows.timestamps
    steps = np.empty(0) if times is None else np.diff(times)[np.diff(rows.frame_index) == 1]
    if len(steps) and (found := wrong_rate(steps, info.fps)):
        raise DatasetError(
            f"{info.meta / 'info.json'} says {info.fps} Hz, and the time stamps are at {found}. A policy would act at "
            "the wrong speed: correct fps if it was edited, or record the dataset again."
        )


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
