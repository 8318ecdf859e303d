"""Rigid transforms, kinematics and projection of many images at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from smolvla_gym.parol6 import Array, Gripper
from smolvla_gym.parol6.kinematics import dh_rows

MUJOCO_CAMERA: Final = np.diag([1.0, -1.0, -1.0])
"""Rotation from OpenCV's camera frame to MuJoCo's, which looks along -z."""


def make_pose(rotation: ArrayLike, position: ArrayLike) -> Array:
    """Return the homogeneous transform of a rotation, shape (3, 3), and a position, shape (3,)."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose


def invert(pose: Array) -> Array:
    """Return the inverse of rigid transforms, shape (..., 4, 4)."""
    turned = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse = np.zeros_like(pose)
    inverse[..., :3, :3], inverse[..., 3, 3] = turned, 1.0
    inverse[..., :3, 3] = -(turned @ pose[..., :3, 3, None])[..., 0]
    return inverse


def rotation_from_vector(vector: Array) -> Array:
    """Return the rotations of rotation vectors in rad, shape (..., 3); shape (..., 3, 3)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    first = np.sinc(angle / np.pi)
    second = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    rotation: Array = np.eye(3) + first * cross + second * (cross @ cross)
    return rotation


def vector_from_rotation(rotation: Array) -> Array:
    """Return the rotation vector in rad, shape (3,), of a rotation, shape (3, 3)."""
    w, *axis = quaternion_from_rotation(rotation)
    length = float(np.linalg.norm(axis))
    if length < 1e-12:
        return np.zeros(3)
    return np.array(axis) * (2.0 * float(np.arctan2(length, w)) / length)


def quaternion_from_rotation(rotation: Array) -> tuple[float, float, float, float]:
    """Return the quaternion w, x, y, z with w >= 0 of a rotation, shape (3, 3)."""
    r = rotation
    # The eigenvector of the largest eigenvalue: exact near half a turn too, where sums of the diagonal are not.
    k = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0.0, 0.0, 0.0],
        [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0.0, 0.0],
        [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0.0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    x, y, z, w = np.linalg.eigh(k)[1][:, -1].tolist()
    sign = -1.0 if w < 0.0 else 1.0
    return sign * w, sign * x, sign * y, sign * z


def apply_change(pose: Array, change: Array) -> Array:
    """Return poses turned about the parent's axes through their origins, and moved.

    Args:
        pose: Transforms, shape (..., 4, 4).
        change: Rotation vector in rad and translation in m in the parent's frame, shape (..., 6).
    """
    turn = rotation_from_vector(change[..., :3])
    changed = np.zeros(np.broadcast_shapes(pose.shape, (*change.shape[:-1], 4, 4)))
    changed[..., :3, :3] = turn @ pose[..., :3, :3]
    changed[..., :3, 3] = pose[..., :3, 3] + change[..., 3:]
    changed[..., 3, 3] = 1.0
    return changed


def distance(one: Array, other: Array) -> tuple[float, float]:
    """Return the distance in m and the angle in rad between two poses, shape (4, 4)."""
    between = vector_from_rotation(one[:3, :3].T @ other[:3, :3])
    return float(np.linalg.norm(one[:3, 3] - other[:3, 3])), float(np.linalg.norm(between))


def tool_poses(joints: Array, gripper: Gripper, links: Array | None = None) -> Array:
    """Return the tool frames at many joint angles, as :func:`smolvla_gym.parol6.forward_kinematics` does for one.

    Args:
        joints: Joint angles in rad, shape (..., 6).
        gripper: The gripper that is mounted.
        links: Deviations of the Denavit-Hartenberg parameters d and a in m, shape (6, 2); None: none.

    Returns:
        Homogeneous transforms, shape (..., 4, 4).
    """
    rows = dh_rows(gripper)
    if links is not None:
        rows[:, :2] += links
    pose: Array | None = None
    for i, (d, a, alpha) in enumerate(rows.tolist()):
        ct, st, ca, sa = np.cos(joints[..., i]), np.sin(joints[..., i]), np.cos(alpha), np.sin(alpha)
        step = np.zeros((*joints.shape[:-1], 4, 4))
        step[..., 0, 0], step[..., 0, 1], step[..., 0, 2], step[..., 0, 3] = ct, -st * ca, st * sa, a * ct
        step[..., 1, 0], step[..., 1, 1], step[..., 1, 2], step[..., 1, 3] = st, ct * ca, -ct * sa, a * st
        step[..., 2, 1], step[..., 2, 2], step[..., 2, 3], step[..., 3, 3] = sa, ca, d, 1.0
        pose = step if pose is None else pose @ step
    assert pose is not None  # noqa: S101 - narrows a type
    return pose


def project(camera_board: Array, points: Array, matrix: Array, distortion: ArrayLike) -> Array:
    """Project points of a board into images.

    Args:
        camera_board: Poses of the board in the camera's frame, shape (..., 4, 4).
        points: Points on the board in m, shape (n, 3) or (..., n, 3).
        matrix: Camera matrix in px, shape (3, 3).
        distortion: OpenCV's k1, k2, p1, p2 and k3.

    Returns:
        Pixel coordinates, shape (..., n, 2).
    """
    inside = points @ np.swapaxes(camera_board[..., :3, :3], -1, -2) + camera_board[..., None, :3, 3]
    x, y = inside[..., 0] / inside[..., 2], inside[..., 1] / inside[..., 2]
    k1, k2, p1, p2, k3 = np.asarray(distortion, dtype=np.float64).tolist()
    if any((k1, k2, p1, p2, k3)):
        r2 = x * x + y * y
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        x, y = (
            x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x),
            y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y,
        )
    return np.stack([matrix[0, 0] * x + matrix[0, 2], matrix[1, 1] * y + matrix[1, 2]], -1)
