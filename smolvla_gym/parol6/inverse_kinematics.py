"""Closed-form inverse kinematics of the PAROL6 for tools in the vertical plane through J1.

With J4 at zero the arm is a planar two-link arm on a turntable, which is enough to pick objects from a table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, Array, Gripper, forward_kinematics

_SHOULDER_RADIUS, _SHOULDER_HEIGHT = 0.02342, 0.11050
_UPPER_ARM = 0.18000
_FOREARM = float(np.hypot(0.04350, 0.17635))
# The wrist centre lies above the forearm's axis by the 43.5 mm elbow offset.
_FOREARM_ANGLE = float(np.arctan2(0.04350, 0.17635))

_LEAP = 0.3
"""Change of a joint in rad that any step of the tool may take, also near a stretched elbow."""

_PER_METRE, _PER_RADIAN = 30.0, 2.0
"""Change of a joint in rad per m and per rad of the tool's motion. Within one branch no joint needs more, unless the
tool passes the axis of J1 within a cm (20,000 random pairs of poses for each gripper)."""

_QUARTER = np.pi / 2 + 1e-6
"""Change of J6 in rad that brings the jaws to any yaw, which counts modulo half a turn."""


def tool_pitch(gripper: Gripper) -> float:
    """Return the pitch of the tool axis in rad at which the fingers of a gripper point straight down."""
    x, _, z = gripper.approach
    return float(-np.pi / 2 + np.arctan2(-x, z))


def solve(position: ArrayLike, yaw: float, gripper: Gripper, near_j6: float = np.pi) -> Array | None:
    """Return the joint angles for a position of the tool centre point with the fingers pointing down.

    Args:
        position: Tool centre point in the world in m, shape (3,).
        yaw: Direction of the jaws' travel about the world's z axis in rad, modulo pi. Ignored by a gripper that
            stands sideways on the wrist: its yaw follows J1.
        gripper: The gripper that is mounted.
        near_j6: Angle of J6 in rad; of the solutions half a turn apart the nearest to it is returned.

    Returns:
        Joint angles in rad, shape (6,), within the soft limits; None if the position is out of reach.
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


def tool_yaw(pose: Array) -> float:
    """Return the direction of the jaws' travel in rad of a tool frame, shape (4, 4)."""
    return float(np.arctan2(pose[1, 1], pose[0, 1]))


def change_bound(moved: float, turned: float) -> float:
    """Return the largest change of a joint in rad, within one branch, for a motion of the tool.

    Args:
        moved: Distance in m that the tool moves.
        turned: Angle in rad that it turns.
    """
    return _LEAP + _PER_METRE * moved + _PER_RADIAN * turned


def turn_between(yaw: float, other: float) -> float:
    """Return the smallest turn of the jaws in rad, 0..pi/2, between two yaws, which count modulo half a turn."""
    return abs((other - yaw + np.pi / 2) % np.pi - np.pi / 2)


def follow(joints: Array, position: ArrayLike, yaw: float, gripper: Gripper) -> Array | None:
    """Return the joint angles for a pose of the tool on the present branch of the inverse kinematics.

    Branches are the several solutions for the same pose: with J6 half a turn on, with the wrist or the elbow flipped,
    or with the arm leaning back over itself. No joint changes by more than :func:`change_bound`, and J6 by no more
    than a quarter turn.

    Args:
        joints: Joint angles in rad of the previous target, or of the arm at rest, shape (6,).
        position: Tool centre point in the world in m, shape (3,).
        yaw: Direction of the jaws' travel in rad, modulo pi.
        gripper: The gripper that is mounted.

    Returns:
        Joint angles in rad, shape (6,), within the soft limits; None if the pose is out of reach, or needs another
        branch.
    """
    found = solve(position, yaw, gripper, near_j6=float(joints[5]))
    if found is None or abs(found[5] - joints[5]) > _QUARTER:
        return None
    pose = forward_kinematics(joints, gripper)
    here = tool_yaw(pose)
    tilt = float(np.arccos(np.clip(-(pose[:3, :3] @ gripper.approach)[2], -1.0, 1.0)))
    same = solve(pose[:3, 3], here, gripper, near_j6=float(joints[5]))
    if same is not None and np.abs(same - joints).max() > change_bound(0.0, tilt):
        return None  # the arm is on another branch than the solutions
    moved = float(np.linalg.norm(np.asarray(position) - pose[:3, 3]))
    turned = turn_between(here, yaw) if gripper.dh_a == 0.0 else 0.0
    return found if np.abs(found - joints).max() <= change_bound(moved, turned + tilt) else None
