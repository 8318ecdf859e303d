"""The mount guard of the robot for LeRobot."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from smolvla_gym.calibration.mount_check import Verdict
from smolvla_gym.calibration.mount_guard import MountGuard
from smolvla_gym.envs.parol6_env import PAROL6Env


def guard_mounts(folder: str | None, env: PAROL6Env) -> Callable[[], None]:
    """Read the images that are kept of the cameras, and return the function that compares the cameras with them.

    Args:
        folder: The folder of the images; None: the default one.
        env: The env, whose arm has not moved yet.

    Raises:
        CalibrationError: A file is broken.
    """
    guard = MountGuard(env, folder)

    def compare() -> None:
        for check in guard.check():
            if check.verdict is not Verdict.IN_PLACE:
                warnings.warn(check.message, RuntimeWarning, stacklevel=2)

    return compare
