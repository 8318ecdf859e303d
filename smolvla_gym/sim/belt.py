"""Belt that carries the objects to and fro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import Array

BELT_HEIGHT: Final = 0.006
"""Height of the belt's surface above the table in m."""

BELT_WIDTH: Final = 0.08
"""Width of the belt in m, along x. It runs along y."""

BELT_REACH: Final = 0.15
"""Distance in m of an object from the middle of the belt, along y, at which the belt turns round."""

_BELT: Final = "belt"
_X: Final = {"ssg48": 0.24, "pneumatic": 0.32}
_LENGTH: Final = 0.50

_ON_IT: Final = 0.04
"""Largest height in m of the centre of an object that stands on the belt."""


def belt_x(gripper: str) -> float:
    """Return x in m of the belt's middle, which depends on the reach with a gripper."""
    return _X[gripper]


def add_belt(spec: mujoco.MjSpec, gripper: str) -> None:
    """Add the belt to a scene.

    Args:
        spec: The scene.
        gripper: Name of the gripper.
    """
    body = spec.worldbody.add_body(name=_BELT, pos=[belt_x(gripper), 0, BELT_HEIGHT / 2])
    joint = body.add_joint(name=_BELT, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 1, 0])
    joint.armature = 1000.0  # kg: no contact slows it
    body.add_geom(
        name=_BELT, type=mujoco.mjtGeom.mjGEOM_BOX, size=[BELT_WIDTH / 2, _LENGTH / 2, BELT_HEIGHT / 2], mass=1.0,
        rgba=[0.22, 0.23, 0.25, 1], friction=[0.8, 0.01, 0.0005], group=2,
    )  # fmt: skip
    spec.add_exclude(bodyname1="world", bodyname2=_BELT)  # it lies on the table


class Belt:
    """Belt along y, which turns round before it carries an object out of reach.

    It has no state of its own: its direction is the sign of its speed in the state of the physics.

    Attributes:
        speed: Speed of its surface in m/s, 0 or above. It may be changed at any time.
    """

    def __init__(self, model: mujoco.MjModel, speed: float) -> None:
        """Find the belt of a scene.

        Args:
            model: A model with a belt.
            speed: Speed of its surface in m/s.
        """
        self.speed = speed
        self._x = float(model.body(_BELT).pos[0])
        self._qpos, self._dof = int(model.joint(_BELT).qposadr[0]), int(model.joint(_BELT).dofadr[0])

    def start(self, data: mujoco.MjData, direction: float) -> None:
        """Set the direction: above 0 towards larger y, below 0 towards smaller y."""
        data.qvel[self._dof] = np.copysign(self.speed, direction)

    def velocity(self, data: mujoco.MjData) -> Array:
        """Return the velocity of the surface in m/s, shape (3,)."""
        return np.array([0.0, np.copysign(self.speed, data.qvel[self._dof]), 0.0])

    def carries(self, position: Array) -> bool:
        """Return whether an object with its centre at a position in m, shape (3,), stands on the belt."""
        return bool(abs(position[0] - self._x) < BELT_WIDTH / 2 and 0.0 < position[2] < _ON_IT)

    def turn(self, data: mujoco.MjData, positions: Sequence[Array]) -> None:
        """Turn the belt round if it has carried an object to its end.

        Args:
            data: The state.
            positions: Centres of the objects in m, each of shape (3,).
        """
        direction = np.copysign(1.0, data.qvel[self._dof])
        if any(self.carries(position) and direction * position[1] > BELT_REACH for position in positions):
            self.start(data, -direction)

    def move(self, data: mujoco.MjData) -> None:
        """Set the speed for a physics step. The surface moves, the belt itself stays in its place."""
        data.qpos[self._qpos] = 0.0
        data.qvel[self._dof] = np.copysign(self.speed, data.qvel[self._dof])
