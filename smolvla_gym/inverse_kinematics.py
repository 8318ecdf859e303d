"""Closed-form inverse kinematics of the PAROL6 for tools in the vertical plane through J1.

With J4 at zero the arm is a planar two-link arm on a turntable; that covers everything that is picked from a table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, Array, Gripper

_SHOULDER_RADIUS, _SHOULDER_HEIGHT = 0.02342, 0.11050
_UPPER_ARM = 0.18000
_FOREARM = float(np.hypot(0.04350, 0.17635))
# The wrist centre lies above the forearm's axis by the 43.5 mm elbow offset.
_FOREARM_ANGLE = float(np.arctan2(0.04350, 0.17635))


def tool_pitch(gripper: Gripper) -> float:
    """Returns the pitch of the tool axis in rad at which the fingers of a gripper point straight down."""
    x, _, z = gripper.approach
    return float(-np.pi / 2 + np.arctan2(-x, z))


def solve(position: ArrayLike, yaw: float, gripper: Gripper, near_j6: float = np.pi) -> Array | None:
    """Finds the joint angles that bring the tool centre point to a position with the fingers pointing down.

    Args:
        position: Tool centre point in the world in m, shape (3,).
        yaw: Direction of the jaws' travel about the world's z axis in rad, modulo pi. Ignored by a gripper that
            stands sideways on the wrist: its yaw follows J1.
        gripper: The gripper that is mounted.
        near_j6: Angle of J6 in rad; of the solutions half a turn apart the one nearest to it is taken.

    Returns:
        Joint angles in rad, shape (6,), within the soft limits; None where the arm cannot reach.
    """
    x, y, z = np.asarray(position, dtype=np.float64)
    q1 = float(np.arctan2(y, x))
    pitch = tool_pitch(gripper)

    # Wrist centre in the plane: the tool centre point less the tool, whose x axis points up when the tool is level.
    forward, sideways = -gripper.dh_d, gripper.dh_a
    radius = np.hypot(x, y) - forward * np.cos(pitch) + sideways * np.sin(pitch) - _SHOULDER_RADIUS
    height = z - forward * np.sin(pitch) - sideways * np.cos(pitch) - _SHOULDER_HEIGHT

    distance = np.hypot(radius, height)
    cosine = (_UPPER_ARM**2 + distance**2 - _FOREARM**2) / (2 * _UPPER_ARM * max(distance, 1e-9))
    if abs(cosine) > 1.0:
        return None
    upper_arm = np.arctan2(height, radius) + np.arccos(cosine)  # above the horizon, elbow up
    forearm = np.arctan2(height - _UPPER_ARM * np.sin(upper_arm), radius - _UPPER_ARM * np.cos(upper_arm))
    forearm_pitch = forearm - _FOREARM_ANGLE

    q2 = -upper_arm
    q3 = forearm_pitch - upper_arm + 3 * np.pi / 2
    q5 = pitch - forearm_pitch
    if gripper.dh_a == 0.0:
        # At J6 = 180 deg the jaws travel at right angles to the arm's plane; J6 turns them about the downward axis.
        q6 = near_j6 + (yaw - q1 - near_j6) % np.pi - np.pi / 2
        q6 += np.pi * (float(q6 < JOINT_LOWER[5]) - float(q6 > JOINT_UPPER[5]))
    else:
        q6 = np.pi

    joints = np.array([q1, q2, np.pi / 2 + (q3 - np.pi / 2) % (2 * np.pi), 0.0, q5, q6])
    if np.any(joints < JOINT_LOWER) or np.any(joints > JOINT_UPPER):
        return None
    return joints
