"""Checks of a dataset before training: what would fail late, or teach the policy something else, is refused."""

from __future__ import annotations

import numpy as np

from smolvla_gym.data.checks.times import wrong_rate
from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.spec import arm_differences
from smolvla_gym.errors import DatasetError


def check_arm(info: DatasetInfo) -> None:
    """Refuse a dataset of another robot, with other units, without cameras or videos, or without episodes.

    Raises:
        DatasetError: The dataset is one of these.
    """
    problems = arm_differences(info) + ([] if info.cameras else ["no camera"])
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
