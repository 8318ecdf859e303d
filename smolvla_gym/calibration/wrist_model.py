"""Model of the wrist camera's images: where the corners of the board are, and how that depends on the unknowns.

The unknowns that all images share are the hand-eye pose, the pose of the board, the offsets of J2 to J5 and the
deviations of the links; each image has its own deviations of the six joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from smolvla_gym.calibration.geometry import apply_change, invert, project, tool_poses
from smolvla_gym.parol6 import NUM_JOINTS, Array, Gripper
from smolvla_gym.parol6.calibration import CameraIntrinsics

OFFSET_JOINTS: Final = (1, 2, 3, 4)
"""Joints whose offsets are observable, from 0: that of J1 is one with the yaw of the board, that of J6 with the roll of
the camera."""

HAND_EYE: Final = slice(0, 6)
BOARD: Final = slice(6, 12)
OFFSETS: Final = slice(12, 16)
LINKS: Final = slice(16, 28)
NUM_SHARED: Final = 28
"""Places of the shared unknowns: rotation vectors in rad and translations in m of the two poses, offsets in rad,
deviations of the Denavit-Hartenberg parameters d and a of each joint in m."""

_STEP: Final = 1e-6


@dataclass(frozen=True, eq=False)
class WristState:
    """Values of the unknowns.

    Attributes:
        hand_eye: Pose of the camera in the tool frame, shape (4, 4).
        board: Pose of the board in the base frame, shape (4, 4).
        offsets: True minus reported angles of J2 to J5 in rad, shape (4,).
        links: Deviations of d and a in m, shape (6, 2).
        deviations: Deviations of the joints in each image in rad, shape (n, 6).
    """

    hand_eye: Array
    board: Array
    deviations: Array
    offsets: Array = field(default_factory=lambda: np.zeros(len(OFFSET_JOINTS)))
    links: Array = field(default_factory=lambda: np.zeros((NUM_JOINTS, 2)))

    def changed(self, shared: Array, own: Array | None = None) -> WristState:
        """Return the state after a change.

        Args:
            shared: Change of the shared unknowns, shape (28,).
            own: Change of the joint deviations in rad, shape (n, 6).
        """
        return replace(
            self,
            hand_eye=apply_change(self.hand_eye, shared[HAND_EYE]),
            board=apply_change(self.board, shared[BOARD]),
            offsets=self.offsets + shared[OFFSETS],
            links=self.links + shared[LINKS].reshape(NUM_JOINTS, 2),
            deviations=self.deviations if own is None else self.deviations + own,
        )


class WristModel:
    """Projection of the board into the images of a wrist camera."""

    def __init__(self, gripper: Gripper, joints: Array, points: Array, intrinsics: CameraIntrinsics) -> None:
        """Keep what is known.

        Args:
            gripper: The gripper that is mounted.
            joints: Reported joint angles in rad of each image, shape (n, 6).
            points: Corners of the board in m, shape (k, 3).
            intrinsics: Model of the images.
        """
        self._gripper, self._joints, self._points = gripper, joints, points
        self._matrix, self._distortion = intrinsics.matrix, intrinsics.distortion

    def pixels(self, state: WristState) -> Array:
        """Return the places of all corners in px, shape (n, k, 2), also of those that the camera does not see."""
        joints = self._joints + state.deviations
        joints[:, OFFSET_JOINTS] += state.offsets
        tool = tool_poses(joints, self._gripper, state.links)
        camera_board = invert(tool @ state.hand_eye) @ state.board
        return project(camera_board, self._points, self._matrix, self._distortion)

    def derivatives(self, state: WristState) -> tuple[Array, Array, Array]:
        """Return the places of the corners and how they depend on the unknowns.

        Returns:
            Places in px, shape (n, k, 2), their derivatives by the shared unknowns, shape (n, k, 2, 28), and by the
            joint deviations of their own image, shape (n, k, 2, 6).
        """
        base = self.pixels(state)
        shared = np.empty((*base.shape, NUM_SHARED))
        for i in range(NUM_SHARED):
            step = np.zeros(NUM_SHARED)
            step[i] = _STEP
            shared[..., i] = (self.pixels(state.changed(step)) - base) / _STEP
        own = np.empty((*base.shape, NUM_JOINTS))
        none = np.zeros(NUM_SHARED)
        for i in range(NUM_JOINTS):
            turn = np.zeros((len(self._joints), NUM_JOINTS))
            turn[:, i] = _STEP
            own[..., i] = (self.pixels(state.changed(none, turn)) - base) / _STEP
        return base, shared, own
