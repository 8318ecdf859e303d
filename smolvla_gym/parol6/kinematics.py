"""Forward kinematics of the PAROL6."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from smolvla_gym.parol6.arm import Array, Gripper

# Denavit-Hartenberg rows d, a (m) and alpha (rad) of joints 1 to 6; row 6 ends in the wrist centre, the gripper adds
# its own d and a (the documented row 6 is the one of the pneumatic gripper).
_DH: Final = (
    (0.11050, 0.02342, -np.pi / 2),
    (0.0, 0.18000, np.pi),
    (0.0, -0.04350, np.pi / 2),
    (-0.17635, 0.0, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
)


def dh_rows(gripper: Gripper) -> Array:
    """Return the Denavit-Hartenberg parameters d and a in m and alpha in rad of joints 1 to 6, shape (6, 3)."""
    return np.array((*_DH, (gripper.dh_d, gripper.dh_a, np.pi)))


def forward_kinematics(joints: ArrayLike, gripper: Gripper) -> Array:
    """Return the pose of the tool frame in the world.

    Its z axis is the tool axis, outwards; its origin the tool centre point of the gripper.

    Args:
        joints: Six joint angles in rad, shape (6,).
        gripper: The gripper that is mounted.

    Returns:
        Homogeneous transform, shape (4, 4), lengths in m.
    """
    pose = np.eye(4)
    rows = (*_DH, (gripper.dh_d, gripper.dh_a, np.pi))
    for q, (d, a, alpha) in zip(np.asarray(joints, dtype=np.float64), rows, strict=True):
        ct, st, ca, sa = np.cos(q), np.sin(q), np.cos(alpha), np.sin(alpha)
        pose = pose @ np.array(
            [[ct, -st * ca, st * sa, a * ct], [st, ct * ca, -ct * sa, a * st], [0.0, sa, ca, d], [0.0, 0.0, 0.0, 1.0]]
        )
    return pose
