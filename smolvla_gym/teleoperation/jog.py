"""Jogging: turn speeds of the tool into joint targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import NUM_JOINTS, Array, Gripper, forward_kinematics
from smolvla_gym.parol6.inverse_kinematics import follow, tool_yaw

SPEED: Final = 0.12
"""Speed of the tool in m/s at full deflection: slow enough to grip by eye."""

TURN_SPEED: Final = 1.2
"""Speed of the jaws' turn in rad/s at full deflection."""

LEAD: Final = 0.02
"""Largest distance in m of the target from the tool, so that the arm stops at once when a key is released."""

_MAX_LAG: Final = 0.5
"""Largest distance in rad of a joint from its target."""


@dataclass(frozen=True)
class Command:
    """Command of the operator in a control step.

    Attributes:
        velocity: Velocity of the tool along x, y and z of the world as a share of ``SPEED``, each -1 to 1, shape (3,).
        turn: Angular velocity of the jaws about the vertical as a share of ``TURN_SPEED``, -1 to 1.
        toggle_gripper: Whether to open a closed gripper, or to close an open one.
        keep: Whether to end the episode and keep it.
        discard: Whether to end the episode and discard it.
        leave: Whether to stop recording.
    """

    velocity: Array = field(default_factory=lambda: np.zeros(3))
    turn: float = 0.0
    toggle_gripper: bool = False
    keep: bool = False
    discard: bool = False
    leave: bool = False


class ToolJog:
    """Moves a target pose of the tool, with the fingers pointing down, and computes its joint angles."""

    def __init__(self, gripper: Gripper, control_hz: float) -> None:
        """Take the gripper and the control rate; call :meth:`reset` before the first step.

        Args:
            gripper: The gripper that is mounted.
            control_hz: Control rate in Hz.
        """
        self._gripper, self._dt = gripper, 1.0 / control_hz
        self._joints: Array = np.zeros(NUM_JOINTS)
        self._position: Array = np.zeros(3)
        self._yaw = 0.0
        self._opening = 1.0

    def reset(self, agent_pos: NDArray[np.float32]) -> None:
        """Set the target to the present pose of the arm.

        Args:
            agent_pos: Joint angles in rad and gripper opening, shape (7,).
        """
        self._joints = np.asarray(agent_pos[:NUM_JOINTS], np.float64)
        self._position, self._yaw = self._pose(self._joints)
        self._opening = float(agent_pos[NUM_JOINTS] > 0.5)

    def step(self, command: Command, agent_pos: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the action for a control step, shape (7,): joint targets in rad and gripper opening.

        A target that the arm cannot reach is not taken: the previous one stays.

        Args:
            command: Command of the operator.
            agent_pos: Present joint angles in rad and gripper opening, shape (7,).
        """
        if command.toggle_gripper:
            self._opening = 1.0 - self._opening
        velocity, turn = np.clip(command.velocity, -1.0, 1.0), float(np.clip(command.turn, -1.0, 1.0))
        if velocity.any() or turn:
            here, _ = self._pose(np.asarray(agent_pos[:NUM_JOINTS], np.float64))
            target = self._position + velocity * SPEED * self._dt
            ahead = target - here
            target = here + ahead * min(1.0, LEAD / max(float(np.linalg.norm(ahead)), 1e-9))
            yaw = self._yaw + turn * TURN_SPEED * self._dt
            joints = follow(self._joints, target, yaw, self._gripper)
            if joints is not None and self._near(joints, agent_pos):
                self._joints, self._position, self._yaw = joints, target, yaw
        return np.append(self._joints, self._opening).astype(np.float32)

    def _near(self, joints: Array, agent_pos: NDArray[np.float32]) -> bool:
        """Return True if the joints are near the target, or come nearer.

        The target of an arm that is held does not move ahead, so that the arm does not catch up later.
        """
        here = np.asarray(agent_pos[:NUM_JOINTS], np.float64)
        lag = float(np.abs(joints - here).max())
        return lag < _MAX_LAG or lag < float(np.abs(self._joints - here).max())

    def _pose(self, joints: Array) -> tuple[Array, float]:
        """Return the position of the tool in m, shape (3,), and the direction of the jaws' travel in rad."""
        pose = forward_kinematics(joints, self._gripper)
        return pose[:3, 3].copy(), tool_yaw(pose)
