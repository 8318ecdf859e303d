"""The mount guard as a callback: it compares the cameras once, at the start of the first episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from smolvla_gym.calibration.mount_check import MountCheck
from smolvla_gym.calibration.mount_guard import MountGuard
from smolvla_gym.episodes.callback import Callback
from smolvla_gym.episodes.record import EpisodeRecord


class MountGuardCallback(Callback):
    """Compares the cameras with the images that are kept of them, when the arm has reached its start pose.

    Attributes:
        checks: Results of the comparison; empty before the first episode.
    """

    def __init__(self, guard: MountGuard, tell: Callable[[Sequence[MountCheck]], None]) -> None:
        """Take the guard.

        Args:
            guard: Guard of the cameras of the env.
            tell: Called with the results.
        """
        self.checks: list[MountCheck] = []
        self._guard, self._tell, self._done = guard, tell, False

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Compare the cameras before the first step of the first episode.

        Raises:
            DeviceError: A camera sent no image.
        """
        if not self._done:
            self._done = True
            self.checks = self._guard.check()
            self._tell(self.checks)
