"""Jogging: speeds of the tool become joint targets."""

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
"""How far in m the target may be ahead of the tool: what one lets go of stops at once."""

_BEHIND: Final = 0.5
"""How far in rad a joint may be behind its target."""


@dataclass(frozen=True)
class Command:
    """What the operator wants in a step.

    Attributes:
        velocity: Of the tool along x, y and z of the world, each -1 to 1, shape (3,).
        turn: Of the jaws about the vertical, -1 to 1.
        toggle_gripper: Whether the gripper is to open if it is closed, and the other way round.
        keep: Whether the episode is over and good.
        discard: Whether it is over and not to be kept.
        leave: Whether to record no more.
    """

    velocity: Array = field(default_factory=lambda: np.zeros(3))
    turn: float = 0.0
    toggle_gripper: bool = False
    keep: bool = False
    discard: bool = False
    leave: bool = False


class ToolJog:
    """Moves a target for the tool, with the fingers pointing down, and solves for the joints."""

    def __init__(self, gripper: Gripper, control_hz: float) -> None:
        """Begins nowhere; see :meth:`reset`.

        Args:
            gripper: The gripper that is mounted.
            control_hz: Steps a second.
        """
        self._gripper, self._dt = gripper, 1.0 / control_hz
        self._joints: Array = np.zeros(NUM_JOINTS)
        self._position: Array = np.zeros(3)
        self._yaw = 0.0
        self._opening = 1.0

    def reset(self, agent_pos: NDArray[np.float32]) -> None:
        """Takes the arm as it stands.

        Args:
            agent_pos: Joint angles in rad and opening, shape (7,).
        """
        self._joints = np.asarray(agent_pos[:NUM_JOINTS], np.float64)
        self._position, self._yaw = self._pose(self._joints)
        self._opening = float(agent_pos[NUM_JOINTS] > 0.5)

    def step(self, command: Command, agent_pos: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the action for a control step, shape (7,): joint targets in rad and opening.

        Where the arm cannot follow, the target stays where it was.

        Args:
            command: What the operator wants.
            agent_pos: The arm as it stands, shape (7,).
        """
        if command.toggle_gripper:
            self._opening = 1.0 - self._opening
        velocity, turn = np.clip(command.velocity, -1.0, 1.0), float(np.clip(command.turn, -1.0, 1.0))
        if velocity.any() or turn:
            here, _ = self._pose(np.asarray(agent_pos[:NUM_JOINTS], np.float64))
            wanted = self._position + velocity * SPEED * self._dt
            ahead = wanted - here
            wanted = here + ahead * min(1.0, LEAD / max(float(np.linalg.norm(ahead)), 1e-9))
            yaw = self._yaw + turn * TURN_SPEED * self._dt
            joints = follow(self._joints, wanted, yaw, self._gripper)
            if joints is not None and self._near(joints, agent_pos):
                self._joints, self._position, self._yaw = joints, wanted, yaw
        return np.append(self._joints, self._opening).astype(np.float32)

    def _near(self, joints: Array, agent_pos: NDArray[np.float32]) -> bool:
        """Tells whether the arm is not too far behind, or comes nearer: what it does not do now is not made up for."""
        here = np.asarray(agent_pos[:NUM_JOINTS], np.float64)
        far = float(np.abs(joints - here).max())
        return far < _BEHIND or far < float(np.abs(self._joints - here).max())

    def _pose(self, joints: Array) -> tuple[Array, float]:
        """Returns the tool's position in m, shape (3,), and the direction of the jaws' travel in rad."""
        pose = forward_kinematics(joints, self._gripper)
        return pose[:3, 3].copy(), tool_yaw(pose)
