"""Images of a calibration: find the board, plan poses over it, drive there and take the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.calibration.bundle import MIN_IMAGES
from smolvla_gym.calibration.detection import BoardDetector, Corners
from smolvla_gym.calibration.geometry import tool_poses
from smolvla_gym.calibration.planning import choose_poses, find_candidates, order_poses, reachable_poses
from smolvla_gym.calibration.rig import Rig
from smolvla_gym.calibration.session import Session
from smolvla_gym.calibration.virtual import VirtualViews, board_plate, board_pose
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import Array, get_gripper
from smolvla_gym.parol6.inverse_kinematics import solve as inverse_kinematics
from smolvla_gym.sim.plate import Plate

WRIST: Final = "wrist"

_LOOKS: Final = ((0.20, 0.0, 0.17), (0.17, 0.0, 0.21), (0.22, 0.08, 0.17), (0.22, -0.08, 0.17))
"""Places in m of the tool from which the board is looked for."""

_SPARE: Final = 4
"""Poses that are chosen beyond those wanted, in place of those that no route leads to."""

Say = Callable[[str], None]
"""Takes a line about what is done."""

Confirm = Callable[[list[NDArray[np.uint8]]], None]
"""Shows the rendered views of the planned poses, and returns once the operator agrees to drive."""


def find_board(rig: Rig, gripper_name: str, session: Session, detector: BoardDetector, hand_eye: Array) -> Plate:
    """Drive to poses above the place where the board should lie until the wrist camera sees it.

    Returns:
        The board as a plate that lies flat.

    Raises:
        CalibrationError: The board was not seen.
    """
    gripper = get_gripper(gripper_name)
    looks = [inverse_kinematics(place, np.pi / 2, gripper) for place in _LOOKS]
    free = [q for q in looks if q is not None and not rig.guard.violations(q.tolist(), rig.opening)]
    for joints in free:
        rig.go(joints)
        reported, images = rig.shoot()
        found = detector.detect(images[WRIST])
        if found is None:
            continue
        inside = detector.pose(found, session.cameras[WRIST].intrinsics)
        board = tool_poses(reported, gripper) @ hand_eye @ inside
        middle = board[:3, :3] @ (detector.points.mean(axis=0)) + board[:3, 3]
        yaw = float(np.arctan2(board[1, 0], board[0, 0]))
        return board_plate(session.board, (float(middle[0]), float(middle[1]), float(max(middle[2], 1e-3))), yaw)
    raise CalibrationError(
        "The wrist camera does not see the board: lay it flat in front of the arm, its middle 24 cm from the axis of "
        "J1 and its long edge pointing away from the arm, with light on it, then start again."
    )


def plan_poses(
    rig: Rig, session: Session, detector: BoardDetector, plate: Plate, count: int, seed: int, say: Say, confirm: Confirm
) -> None:
    """Plan poses over a board, render and show them, and keep them in the session.

    Args:
        rig: The arm.
        session: Takes the poses.
        detector: Detector of the board.
        plate: The board, approximately.
        count: Number of poses.
        seed: Seed of the poses that are drawn.
        say: Takes a line about what is done.
        confirm: Shows the views to the operator.

    Raises:
        CalibrationError: Too few poses see the board or can be reached.
    """
    gripper, intrinsics = get_gripper(session.gripper), session.cameras[WRIST].intrinsics
    sharp = replace(intrinsics, distortion=(0.0,) * 5)
    views = VirtualViews(gripper, plate)
    try:
        hand_eye, board = views.camera_pose(WRIST), board_pose(session.board, plate)
        found = find_candidates(
            gripper, hand_eye, board, sharp, detector, rig.guard,
            lambda joints: views.render(WRIST, joints, sharp, rig.opening), np.random.default_rng(seed),
            opening=rig.opening, wanted=max(80, 4 * count),
        )  # fmt: skip
        chosen = choose_poses(found, count + _SPARE, gripper, hand_eye, board, sharp, detector)
        say(f"{len(found.joints)} poses see the board; {min(count, len(chosen))} tell most together")
        poses = found.joints[chosen[:count]]
        poses = poses[order_poses(poses, rig.joints)]
        reached = reachable_poses(list(poses), rig.joints, rig.opening, rig.guard)
        poses = poses[reached]
        for spare in found.joints[chosen[count:]]:
            if len(poses) < count and reachable_poses([spare], poses[-1], rig.opening, rig.guard):
                poses = np.concatenate([poses, spare[None]])
        if len(poses) < MIN_IMAGES:
            raise CalibrationError(
                f"Only {len(poses)} poses over the board can be reached, {MIN_IMAGES} are needed: move the board "
                "towards the middle of the arm's reach, then start again."
            )
        confirm([views.render(WRIST, joints, sharp, rig.opening) for joints in poses])
    finally:
        views.close()
    session.plan(poses)


def take_images(rig: Rig, session: Session, detector: BoardDetector, say: Say) -> None:
    """Drive to the poses of a session that have no images yet, and take them.

    Raises:
        CalibrationError: The operator stopped the arm, or a route is blocked.
        FaultError: A fault came up.
    """
    for number in session.open_poses:
        rig.go(session.poses[number])
        joints, images = rig.shoot()
        session.add(number, joints, images)
        seen = {name: detector.detect(pixels) for name, pixels in images.items()}
        counts = ", ".join(f"{name} {0 if found is None else len(found)}" for name, found in seen.items())
        say(f"pose {number + 1} of {len(session.poses)}: corners seen: {counts}")


def read_views(session: Session, detector: BoardDetector, camera: str) -> dict[int, Corners]:
    """Return the corners in the images of a camera by the number of their pose, of those that show the board."""
    views = {number: detector.detect(session.image(camera, number)) for number in sorted(session.taken)}
    return {number: found for number, found in views.items() if found is not None}


def sheet(images: Sequence[NDArray[np.uint8]], columns: int = 5, width: int = 256) -> NDArray[np.uint8]:
    """Return images, shape (H, W, 3) each, small, side by side in one."""
    from PIL import Image as PILImage

    height = round(width * images[0].shape[0] / images[0].shape[1])
    small = [np.asarray(PILImage.fromarray(image).resize((width, height))) for image in images]
    small += [np.full_like(small[0], 255)] * (-len(small) % columns)
    rows = [np.concatenate(small[i : i + columns], axis=1) for i in range(0, len(small), columns)]
    return np.concatenate(rows)
