"""Bundle adjustment of the cameras' poses with the errors of the arm's joints as unknowns.

Pixels are known to 0.1 px, joints to 0.1 deg. An adjustment that takes the joints as exact is worse than one of closed
form: each image's six joint deviations are unknowns, and so are the offsets that homing left and the deviations of the
links. How large the deviations of joints and pixels are is estimated from the images too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.board import load_cv2
from smolvla_gym.calibration.detection import MIN_CORNERS, BoardDetector, Corners
from smolvla_gym.calibration.geometry import apply_change, invert, make_pose, project, tool_poses
from smolvla_gym.calibration.wrist_model import (
    BOARD,
    HAND_EYE,
    LINKS,
    NUM_SHARED,
    OFFSETS,
    WristModel,
    WristState,
)
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import NUM_JOINTS, Array, Gripper
from smolvla_gym.parol6.calibration import CameraIntrinsics

MIN_IMAGES: Final = 6
"""Fewest images of the wrist camera that give a result."""

JOINT_SIGMA: Final = np.deg2rad(0.06)
"""Standard deviation in rad of a joint in an image that is assumed at first."""

OFFSET_SIGMA: Final = np.deg2rad(0.5)
"""Standard deviation of a homing offset in rad that is expected."""

LINK_SIGMA: Final = 2e-4
"""Standard deviation in m of the length of a printed link that is assumed at first."""

_PIXEL_SIGMA: Final = 0.1
_JOINT_SIGMAS: Final = (np.deg2rad(0.01), np.deg2rad(2.0))
_PIXEL_SIGMAS: Final = (0.02, 5.0)
_LINK_SIGMAS: Final = (3e-5, 2e-3)
_ROUNDS: Final = 6
_OUTLIER: Final = 6.0
"""Residual of a corner, in robust standard deviations, from which on it is dropped."""

_SURE: Final = 1.96
"""Standard deviations of the half width of a 95 % interval."""


@dataclass(frozen=True, eq=False)
class SceneViews:
    """Images of the board by a fixed camera.

    Attributes:
        corners: Corners of each image.
        intrinsics: Model of the images.
    """

    corners: Sequence[Corners]
    intrinsics: CameraIntrinsics


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of the adjustment; all intervals are half widths of 95 %.

    Attributes:
        state: Hand-eye pose, board, offsets, links and joint deviations.
        scene: Pose of the fixed camera in the base frame, shape (4, 4); None without one.
        hand_eye_interval: Of the rotation about the tool frame's axes in rad and of the position in m, shape (6,).
        offsets_interval: Of the offsets of J2 to J5 in rad, shape (4,).
        scene_interval: As of the hand-eye pose, about the base frame's axes; zeros without a fixed camera.
        residuals: Distance in px of each used corner from its place, an array for each image.
        scene_residuals: The same of the fixed camera.
        pixel_sigma: Estimated standard deviation of a coordinate of a corner in px, of the wrist camera.
        joint_sigma: Estimated standard deviation of a joint in an image in rad.
        link_sigma: Estimated standard deviation of the lengths of the links in m.
        dropped: Number of corners that were dropped.
    """

    state: WristState
    scene: Array | None
    hand_eye_interval: Array
    offsets_interval: Array
    scene_interval: Array
    residuals: list[Array]
    scene_residuals: list[Array]
    pixel_sigma: float
    joint_sigma: float
    link_sigma: float
    dropped: int

    @property
    def rms_px(self) -> float:
        """Reprojection error of the wrist camera in px, root mean square."""
        return _rms(self.residuals)

    @property
    def scene_rms_px(self) -> float:
        """The same of the fixed camera; 0 without one."""
        return _rms(self.scene_residuals)


def _rms(residuals: Sequence[Array]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(residuals) ** 2))) if residuals else 0.0


def solve(
    gripper: Gripper, joints: Array, views: Sequence[Corners], intrinsics: CameraIntrinsics, detector: BoardDetector,
    scene: SceneViews | None = None,
) -> Solution:  # fmt: skip
    """Find the poses of the cameras.

    Args:
        gripper: The gripper that is mounted.
        joints: Reported joint angles in rad of each image, shape (n, 6).
        views: Corners in each image of the wrist camera.
        intrinsics: Model of its images.
        detector: Detector of the board.
        scene: Images of the same board, in the same place, by a fixed camera.

    Raises:
        CalibrationError: There are too few images, or they do not determine the poses.
    """
    if len(views) < MIN_IMAGES:
        raise CalibrationError(
            f"{len(views)} images show the board, at least {MIN_IMAGES} are needed: check light, focus and that the "
            "board lies flat where it was when the poses were planned."
        )
    problem = _Problem(gripper, np.asarray(joints, dtype=np.float64), views, intrinsics, detector, scene)
    for _ in range(_ROUNDS):
        problem.adjust()
        problem.drop_outliers()
        problem.estimate_noise()
    problem.adjust()
    return problem.solution()


def guess(
    gripper: Gripper, joints: Array, views: Sequence[Corners], intrinsics: CameraIntrinsics, detector: BoardDetector
) -> tuple[Array, Array]:
    """Return the hand-eye pose and the board's pose of a closed form (Park), shape (4, 4) each.

    Raises:
        CalibrationError: The poses of the arm do not determine them.
    """
    cv2 = load_cv2()
    boards = np.array([detector.pose(view, intrinsics) for view in views])
    tools = tool_poses(joints, gripper)
    rotation, position = cv2.calibrateHandEye(
        tools[:, :3, :3], tools[:, :3, 3], boards[:, :3, :3], boards[:, :3, 3], method=cv2.CALIB_HAND_EYE_PARK
    )
    hand_eye = make_pose(rotation, np.ravel(position))
    if not np.isfinite(hand_eye).all() or abs(np.linalg.det(hand_eye[:3, :3]) - 1.0) > 1e-3:
        raise CalibrationError("The poses of the arm are too alike: take images from more directions.")
    placed = tools @ hand_eye @ boards
    middle = np.median(placed[:, :3, 3], axis=0)
    nearest = int(np.argmin(np.linalg.norm(placed[:, :3, 3] - middle, axis=1)))
    return hand_eye, placed[nearest]


class _Problem:
    """Unknowns, residuals and their derivatives. The unknowns are changes of the present state.

    Order of the unknowns: the shared ones of :mod:`wrist_model`, the change of the fixed camera's pose, six joints of
    each image.
    """

    def __init__(
        self, gripper: Gripper, joints: Array, views: Sequence[Corners], intrinsics: CameraIntrinsics,
        detector: BoardDetector, scene: SceneViews | None,
    ) -> None:  # fmt: skip
        self._model = WristModel(gripper, joints, detector.points, intrinsics)
        self._points, count = detector.points, len(detector.points)
        self._seen, self._measured = _dense(views, count)
        hand_eye, board = guess(gripper, joints, views, intrinsics, detector)
        self.state = WristState(hand_eye, board, np.zeros_like(joints))
        self._scene = scene
        self.scene_pose: Array | None = None
        self._scene_seen, self._scene_measured = _dense(scene.corners if scene else (), count)
        if scene is not None:
            if not scene.corners:
                raise CalibrationError("The fixed camera does not see the board: turn it, or move the board.")
            fullest = max(scene.corners, key=len)
            self.scene_pose = board @ invert(detector.pose(fullest, scene.intrinsics))
        self.pixel_sigmas = [_PIXEL_SIGMA, _PIXEL_SIGMA]  # of the wrist and the fixed camera
        self.joint_sigma, self.link_sigma = JOINT_SIGMA, LINK_SIGMA
        self.dropped = 0
        self._size = NUM_SHARED + 6 + joints.size

    def adjust(self) -> None:
        """Move the state to the least squares."""
        from scipy.optimize import least_squares

        start, scene_start = self.state, self.scene_pose

        def place(change: Array) -> tuple[WristState, Array | None]:
            own = change[NUM_SHARED + 6 :].reshape(-1, NUM_JOINTS)
            scene = None if scene_start is None else apply_change(scene_start, change[NUM_SHARED : NUM_SHARED + 6])
            return start.changed(change[:NUM_SHARED], own), scene

        # Lengths and angles of 1e-3 are alike, so that the steps of all unknowns are.
        result = least_squares(
            lambda change: self._residuals(*place(change)),
            np.zeros(self._size),
            jac=lambda change: self._jacobian(*place(change)),
            method="lm",
            x_scale=1e-3,
            max_nfev=60,
        )
        self.state, self.scene_pose = place(result.x)

    def drop_outliers(self) -> None:
        """Drop corners that lie far from their places."""
        for seen, measured, placed in self._cameras():
            if not seen.any():
                continue
            off = np.linalg.norm(placed - measured, axis=-1)
            typical = float(np.median(off[seen])) / 1.177  # the median of a Rayleigh distribution
            bad = seen & (off > _OUTLIER * max(typical, 0.03))
            self.dropped += int(bad.sum())
            seen &= ~bad
            seen[seen.sum(axis=1) < MIN_CORNERS // 2] = False

    def estimate_noise(self) -> None:
        """Estimate the standard deviations of pixels, joints and links from what the adjustment left."""
        jacobian = self._jacobian(self.state, self.scene_pose)
        covariance = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
        first = 0
        for camera, (seen, measured, placed) in enumerate(self._cameras()):
            off = (placed - measured)[seen].ravel()
            rows = jacobian[first : first + len(off)]
            first += len(off)
            # A residual is smaller than the noise by what the unknowns took up.
            used = float(np.sum((rows @ covariance) * rows))
            if len(off):
                pixel = np.sqrt(np.sum(off**2) / max(len(off) - used, 1.0))
                self.pixel_sigmas[camera] = float(np.clip(pixel, *_PIXEL_SIGMAS))
        variance, state = np.asarray(covariance.diagonal(), dtype=np.float64), self.state
        joint = _spread(state.deviations.ravel(), variance[NUM_SHARED + 6 :], self.joint_sigma)
        link = _spread(state.links.ravel(), variance[LINKS], self.link_sigma)
        self.joint_sigma = float(np.clip(joint, *_JOINT_SIGMAS))
        self.link_sigma = float(np.clip(link, *_LINK_SIGMAS))

    def solution(self) -> Solution:
        """Return the result."""
        jacobian = self._jacobian(self.state, self.scene_pose)
        covariance = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
        interval = _SURE * np.sqrt(np.maximum(covariance.diagonal(), 0.0))
        wrist, scene = (
            [
                np.linalg.norm(row[mask], axis=-1)
                for row, mask in zip(placed - measured, seen, strict=True)
                if mask.any()
            ]
            for seen, measured, placed in self._cameras()
        )
        return Solution(
            self.state, self.scene_pose, interval[HAND_EYE], interval[OFFSETS],
            interval[NUM_SHARED : NUM_SHARED + 6] if self.scene_pose is not None else np.zeros(6), wrist, scene,
            self.pixel_sigmas[0], self.joint_sigma, self.link_sigma, self.dropped,
        )  # fmt: skip

    def _cameras(self) -> list[tuple[NDArray[np.bool_], Array, Array]]:
        """Return for wrist and fixed camera which corners are used, where they were found, and where they should be."""
        return [
            (self._seen, self._measured, self._model.pixels(self.state)),
            (self._scene_seen, self._scene_measured, self._scene_pixels(self.state, self.scene_pose)),
        ]

    def _scene_pixels(self, state: WristState, scene_pose: Array | None) -> Array:
        if scene_pose is None or self._scene is None:
            return np.empty_like(self._scene_measured)
        intrinsics = self._scene.intrinsics
        one = project(invert(scene_pose) @ state.board, self._points, intrinsics.matrix, intrinsics.distortion)
        return np.broadcast_to(one, self._scene_measured.shape)

    def _residuals(self, state: WristState, scene_pose: Array | None) -> Array:
        wrist = (self._model.pixels(state) - self._measured)[self._seen]
        scene = (self._scene_pixels(state, scene_pose) - self._scene_measured)[self._scene_seen]
        return np.concatenate([
            wrist.ravel() / self.pixel_sigmas[0], scene.ravel() / self.pixel_sigmas[1], state.offsets / OFFSET_SIGMA,
            state.links.ravel() / self.link_sigma, state.deviations.ravel() / self.joint_sigma,
        ])  # fmt: skip

    def _jacobian(self, state: WristState, scene_pose: Array | None) -> Array:
        _, shared, own = self._model.derivatives(state)
        images, rows = len(self._seen), 2 * self._seen.sum(axis=1)
        first = NUM_SHARED + 6
        wrist = np.zeros((int(rows.sum()), self._size))
        wrist[:, :NUM_SHARED] = shared[self._seen].reshape(-1, NUM_SHARED)
        at = 0
        for i in range(images):
            block = own[i, self._seen[i]].reshape(-1, NUM_JOINTS)
            wrist[at : at + len(block), first + NUM_JOINTS * i : first + NUM_JOINTS * (i + 1)] = block
            at += len(block)
        scene = np.zeros((2 * int(self._scene_seen.sum()), self._size))
        if scene_pose is not None:
            base = self._scene_pixels(state, scene_pose)
            step = 1e-6 * np.eye(6)
            for i in range(6):
                board = WristState(state.hand_eye, apply_change(state.board, step[i]), state.deviations)
                by_board = (self._scene_pixels(board, scene_pose) - base) / 1e-6
                by_camera = (self._scene_pixels(state, apply_change(scene_pose, step[i])) - base) / 1e-6
                scene[:, BOARD.start + i] = by_board[self._scene_seen].ravel()
                scene[:, NUM_SHARED + i] = by_camera[self._scene_seen].ravel()
        priors = np.zeros((4 + 12 + own.shape[0] * NUM_JOINTS, self._size))
        priors[np.arange(4), np.r_[OFFSETS]] = 1.0 / OFFSET_SIGMA
        priors[np.arange(4, 16), np.r_[LINKS]] = 1.0 / self.link_sigma
        priors[np.arange(16, len(priors)), np.arange(first, self._size)] = 1.0 / self.joint_sigma
        return np.concatenate([wrist / self.pixel_sigmas[0], scene / self.pixel_sigmas[1], priors])


def _dense(views: Sequence[Corners], count: int) -> tuple[NDArray[np.bool_], Array]:
    """Return which of all corners each image has, shape (n, count), and where, in px, shape (n, count, 2)."""
    seen, measured = np.zeros((len(views), count), dtype=bool), np.zeros((len(views), count, 2))
    for i, view in enumerate(views):
        seen[i, view.ids], measured[i, view.ids] = True, view.pixels
    return seen, measured


def _spread(values: Array, variance: Array, sigma: float) -> float:
    """Return the standard deviation of which values are samples, as far as the images determine them.

    This is MacKay's estimate: values that only their prior determines do not count.

    Args:
        values: Estimated values.
        variance: Variance of each estimate.
        sigma: Standard deviation of the prior with which they were estimated.
    """
    determined = float(np.sum(1.0 - np.minimum(variance / sigma**2, 1.0)))
    return float(np.sqrt(np.sum(values**2) / max(determined, 0.5)))
