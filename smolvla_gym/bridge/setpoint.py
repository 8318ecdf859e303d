"""Where somebody outside wants the arm to be: a stream of joint commands, a trajectory, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.bridge.joint_command import read_joint_command
from smolvla_gym.bridge.trajectory import Trajectory
from smolvla_gym.parol6 import NUM_JOINTS

SILENCE_S: Final = 0.5
"""A stream of ``/joint_commands`` that pauses for longer is a commander that is gone: the arm stops where it is."""

_ARRIVED: Final = 1e-3
"""How near in rad every joint has to be commanded to its target to count as there."""


class Setpoint:
    """Makes the env's next action of what was commanded last."""

    def __init__(self, env: gym.Env[Any, Any], tell: Callable[..., None]) -> None:
        """Begins with nothing: the arm stays.

        Args:
            env: A ``PAROL6Env``.
            tell: Called with an event's kind and its details.
        """
        bare: Any = env.unwrapped
        self._backend, self._space, self._tell = bare.backend, env.action_space, tell
        self._period, self._stroke = 1.0 / float(bare.control_hz), float(bare.gripper.stroke)
        self._target: NDArray[np.float32] | None = None  # None: the arm stops, and stays
        self._commanded_at: float | None = None
        self._trajectory: Trajectory | None = None
        self.opening = 1.0
        """Of the gripper, as it was commanded last: what it holds keeps the jaws apart."""

    @property
    def mode(self) -> str:
        """``"trajectory"``, ``"commands"`` or ``"idle"``."""
        if self._trajectory is not None:
            return "trajectory"
        return "idle" if self._commanded_at is None else "commands"

    def command(self, message: Mapping[str, Any]) -> None:
        """Takes a ``sensor_msgs/JointState``; joints that it does not name go on as they were told.

        Raises:
            ActionError: The arm cannot go there.
        """
        target = self.hold() if self._target is None else self._target.copy()
        for index, value in read_joint_command(message, self._stroke).items():
            target[index] = value
        target = np.clip(target, self._space.low, self._space.high)  # type: ignore[attr-defined]
        self._target, self._trajectory, self._commanded_at = target, None, time.monotonic()

    def follow(self, message: Mapping[str, Any]) -> None:
        """Takes a ``trajectory_msgs/JointTrajectory``.

        Raises:
            ActionError: The arm cannot follow it to its end.
        """
        begin = self.hold()  # wherever an earlier command would have led
        self._trajectory = Trajectory(message, np.asarray(begin[:NUM_JOINTS], np.float64))
        self._target, self._commanded_at = begin, None
        self._tell("trajectory", points=len(message["points"]), seconds=self._trajectory.duration)

    def drop(self) -> None:
        """Forgets what was commanded: the arm stops where it is."""
        self._target = self._trajectory = self._commanded_at = None

    def hold(self) -> NDArray[np.float32]:
        """Returns the action that stops the arm where it was sent to; the jaws keep what they hold."""
        return np.append(self._backend.commanded, self.opening).astype(np.float32)

    def next_action(self) -> NDArray[np.float32]:
        """Returns the action of the next step."""
        if self._commanded_at is not None and time.monotonic() - self._commanded_at > SILENCE_S:
            self._commanded_at = None
            assert self._target is not None
            moving = np.abs(self.hold() - self._target)[:NUM_JOINTS].max() > _ARRIVED
            if moving:  # one that has arrived may be silent
                self._target = None
            self._tell("commander_silent", stopped=bool(moving), seconds=SILENCE_S)
        if self._trajectory is not None:
            assert self._target is not None
            self._target[:NUM_JOINTS] = self._trajectory.advance(self._period)
            # A slow arm is later than its trajectory.
            if self._trajectory.done and np.abs(self.hold()[:NUM_JOINTS] - self._trajectory.end).max() < _ARRIVED:
                self._trajectory = None
                self._tell("trajectory_done")
        # Without a target it is asked anew in each step, so that an arm that brakes does not come back.
        return self.hold() if self._target is None else self._target
