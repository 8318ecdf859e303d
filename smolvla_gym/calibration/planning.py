"""Poses for a calibration: drawn at random, rendered, and chosen by what their images would tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.detection import BoardDetector
from smolvla_gym.calibration.geometry import invert, project, tool_poses
from smolvla_gym.calibration.wrist_model import BOARD, HAND_EYE, OFFSETS, WristModel, WristState
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, MAX_SPEED, NUM_JOINTS, Array, Gripper
from smolvla_gym.parol6.calibration import CameraIntrinsics
from smolvla_gym.safety.gate import Guard
from smolvla_gym.safety.route import BlockedError, find_route

MIN_PLANNED_CORNERS: Final = 12
"""Corners that a rendered view has to show: the fingers hide the board in many poses that look at it."""

_DRAWS: Final = 40_000
"""Random poses of a round; about 1 % see the board."""

_ROUNDS: Final = 10
_RENDERED: Final = 150
"""Views that are rendered; about two thirds of them show enough corners."""

_BORDER_PX: Final = 12.0
_MIN_SHARE, _MAX_TILT = 0.6, np.deg2rad(50.0)
_NEAR, _FAR = 0.13, 0.40
"""Distance in m from the camera to the middle of the corners."""

_LIMIT_MARGIN: Final = np.deg2rad(2.0)
_CLEARANCE: Final = np.deg2rad(0.7)
"""Change of J2, J3 and J5 that must cause no contact either: homing may be off by this."""

_MIN_HEIGHT: Final = 0.02
"""Lowest tool centre point in m."""

_JOINT_SIGMA, _PIXEL_SIGMA = np.deg2rad(0.06), 0.1

Render = Callable[[Array], NDArray[np.uint8]]
"""Renders the wrist camera's view at joint angles in rad, shape (6,)."""

Progress = Callable[[int, int, str], None]
"""Called with the number of views done, their total, and what is done."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Poses without contacts in which the board is visible.

    Attributes:
        joints: Joint angles in rad, shape (n, 6).
        ids: Numbers of the corners that each rendered view showed.
    """

    joints: Array
    ids: tuple[NDArray[np.intp], ...]


def find_candidates(
    gripper: Gripper, hand_eye: Array, board: Array, intrinsics: CameraIntrinsics, detector: BoardDetector,
    guard: Guard, render: Render, rng: np.random.Generator, *, opening: float = 1.0, wanted: int = _RENDERED,
    progress: Progress = lambda done, total, what: None,
) -> Candidates:  # fmt: skip
    """Find poses that look at the board, and render each.

    Args:
        gripper: The gripper that is mounted.
        hand_eye: Approximate pose of the camera in the tool frame, shape (4, 4).
        board: Approximate pose of the board in the base frame, shape (4, 4).
        intrinsics: Model of the camera's images.
        detector: Detector of the board.
        guard: Check of poses that must not be commanded.
        render: Renders the views.
        rng: Random generator.
        opening: Opening of the gripper, 0..1.
        wanted: Number of views to render.
        progress: Called for each view.

    Raises:
        CalibrationError: No pose sees the board.
    """
    looking = np.empty((0, NUM_JOINTS))
    for _ in range(_ROUNDS):
        joints = _draw(rng, board, _DRAWS)
        joints = joints[_sees_board(joints, gripper, hand_eye, board, intrinsics, detector.points)]
        free = [q for q in joints if _is_free(q, opening, guard)]
        looking = np.concatenate([looking, *(q[None] for q in free)])
        if len(looking) >= wanted:
            break
    kept, ids = list[Array](), list[NDArray[np.intp]]()
    total = min(len(looking), wanted)
    for i, q in enumerate(looking[:total]):
        found = detector.detect(render(q))
        if found is not None and len(found) >= MIN_PLANNED_CORNERS:
            kept.append(q)
            ids.append(found.ids)
        progress(i + 1, total, "views rendered")
    if not kept:
        raise CalibrationError(
            "No pose of the arm sees the board: lay it flat in front of the arm, its middle 24 cm from the axis of J1 "
            "and its long edge pointing away from the arm, then start again."
        )
    return Candidates(np.array(kept), tuple(ids))


def choose_poses(
    candidates: Candidates, count: int, gripper: Gripper, hand_eye: Array, board: Array, intrinsics: CameraIntrinsics,
    detector: BoardDetector,
) -> list[int]:  # fmt: skip
    """Choose the poses whose images tell most together about hand-eye, board and joint offsets (greedy, D-optimal).

    Returns:
        Indices of candidates, the most useful first.
    """
    state = WristState(hand_eye, board, np.zeros((len(candidates.joints), NUM_JOINTS)))
    model = WristModel(gripper, candidates.joints, detector.points, intrinsics)
    _, shared, own = model.derivatives(state)
    sought = np.r_[HAND_EYE, BOARD, OFFSETS]
    shared = shared[..., sought]
    infos = []
    for i, seen in enumerate(candidates.ids):
        by_shared, by_own = shared[i, seen].reshape(-1, len(sought)), own[i, seen].reshape(-1, NUM_JOINTS)
        # The image's own joint deviations are not known: what could come from them tells nothing of the rest.
        noise = _PIXEL_SIGMA**2 * np.eye(len(by_own)) + _JOINT_SIGMA**2 * by_own @ by_own.T
        infos.append(by_shared.T @ np.linalg.solve(noise, by_shared))
    total, chosen = 1e-3 * np.eye(len(sought)), list[int]()
    for _ in range(min(count, len(infos))):
        gains = [-np.inf if i in chosen else np.linalg.slogdet(total + info)[1] for i, info in enumerate(infos)]
        chosen.append(int(np.argmax(gains)))
        total = total + infos[chosen[-1]]
    return chosen


def order_poses(poses: Array, start: Array) -> list[int]:
    """Return an order of poses, shape (n, 6), in which each is the nearest one to that before, from a start pose."""
    left, order, here = list(range(len(poses))), list[int](), start
    while left:
        nearest = min(left, key=lambda i: float(np.max(np.abs(poses[i] - here) / MAX_SPEED)))
        left.remove(nearest)
        order.append(nearest)
        here = poses[nearest]
    return order


def reachable_poses(
    poses: Sequence[Array], start: Array, opening: float, guard: Guard, *, speed_scale: float = 1.0
) -> list[int]:
    """Return the indices of poses that the arm reaches one after the other without the safety gate's stop.

    Args:
        poses: Joint angles in rad, shape (6,) each, in their order.
        start: Joint angles at which the arm rests before, shape (6,).
        opening: Opening of the gripper, 0..1.
        guard: Check of poses that must not be commanded.
        speed_scale: Share of the speed limits that is used.
    """
    reached, here = list[int](), start
    for i, pose in enumerate(poses):
        try:
            find_route(here, opening, pose, opening, guard, speed_scale=speed_scale)
        except BlockedError:
            continue
        reached.append(i)
        here = pose
    return reached


def _draw(rng: np.random.Generator, board: Array, count: int) -> Array:
    """Draw joint angles in rad, shape (count, 6); J1 points towards the board within 55 deg."""
    joints = rng.uniform(JOINT_LOWER + _LIMIT_MARGIN, JOINT_UPPER - _LIMIT_MARGIN, (count, NUM_JOINTS))
    towards = float(np.arctan2(board[1, 3], board[0, 3]))
    joints[:, 0] = np.clip(towards + rng.uniform(-0.96, 0.96, count), JOINT_LOWER[0], JOINT_UPPER[0])
    return joints


def _sees_board(
    joints: Array, gripper: Gripper, hand_eye: Array, board: Array, intrinsics: CameraIntrinsics, points: Array
) -> NDArray[np.bool_]:
    """Return the poses from which the camera would see the board if nothing hid it, shape (n,)."""
    inside = invert(tool_poses(joints, gripper) @ hand_eye) @ board
    depth = (points @ np.swapaxes(inside[:, :3, :3], 1, 2) + inside[:, None, :3, 3])[..., 2]
    front = depth.min(axis=1) > _NEAR / 2
    pixels = project(inside, points, intrinsics.matrix, np.zeros(5))
    size = np.array([intrinsics.width, intrinsics.height])
    seen = ((pixels > _BORDER_PX) & (pixels < size - _BORDER_PX)).all(axis=-1).mean(axis=1) > _MIN_SHARE
    tilt = np.arccos(np.clip(inside[:, 2, 2], -1.0, 1.0))
    middle = depth.mean(axis=1)
    mask: NDArray[np.bool_] = front & seen & (tilt < _MAX_TILT) & (middle > _NEAR) & (middle < _FAR)
    # The tool keeps off the table.
    mask &= tool_poses(joints, gripper)[:, 2, 3] > _MIN_HEIGHT
    return mask


def _is_free(joints: Array, opening: float, guard: Guard) -> bool:
    """Return whether a pose has no contacts, also with errors of homing."""
    changes = np.zeros((7, NUM_JOINTS))
    for i, joint in enumerate((1, 2, 4)):
        changes[2 * i + 1, joint], changes[2 * i + 2, joint] = _CLEARANCE, -_CLEARANCE
    return not any(guard.violations((joints + change).tolist(), opening) for change in changes)
