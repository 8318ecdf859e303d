"""The measurement of camera poses from beginning to end: board, poses, images, adjustment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from smolvla_gym.calibration.bundle import SceneViews, Solution, solve
from smolvla_gym.calibration.capture import WRIST, Confirm, Say, find_board, plan_poses, read_views, take_images
from smolvla_gym.calibration.detection import BoardDetector, Corners
from smolvla_gym.calibration.report import camera_poses, joint_offsets
from smolvla_gym.calibration.rig import Rig
from smolvla_gym.calibration.session import Session, SessionCamera
from smolvla_gym.calibration.virtual import VirtualViews
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import get_gripper
from smolvla_gym.parol6.calibration import BoardSpec, Calibration, CameraCalibration, CameraIntrinsics

SCENE = "scene"

Views = dict[str, dict[int, Corners]]
"""Corners by camera and number of the pose."""


def measure(
    rig: Rig, folder: Path, gripper: str, board: BoardSpec, *, count: int = 15, seed: int = 0,
    known: Calibration | None = None, say: Say = lambda line: None, confirm: Confirm = lambda images: None,
) -> Session:  # fmt: skip
    """Take the images of a calibration; a session in the folder goes on.

    Args:
        rig: The arm.
        folder: Folder of the session.
        gripper: Name of the gripper that is mounted.
        board: The board, as measured.
        count: Number of poses.
        seed: Seed of the poses that are drawn.
        known: Calibration whose measured intrinsics count, where its camera is the same.
        say: Takes a line about what is done.
        confirm: Shows the views of planned poses to the operator, and returns once the arm may drive.

    Raises:
        CalibrationError: The board is not seen, too few poses can be reached, or the operator stopped the arm.
        FaultError: A fault came up.
    """
    cameras = {name: _with_known_lens(name, camera, known) for name, camera in rig.cameras().items()}
    detector = BoardDetector(board)
    session = Session.open(folder, gripper, board, cameras)
    homed = rig.start()
    if homed and session.taken:
        say("the arm was homed again, which leaves other errors: all images are taken anew")
        session.forget_images()
    if not len(session.poses):
        views = VirtualViews(get_gripper(gripper), None)
        hand_eye = views.camera_pose(WRIST)
        say("looking for the board")
        plate = find_board(rig, gripper, session, detector, hand_eye)
        x, y, z = (1e3 * value for value in plate.position)
        say(f"the board's middle is at {x:.0f}, {y:.0f}, {z:.0f} mm; planning poses")
        plan_poses(rig, session, detector, plate, count, seed, say, confirm)
    elif session.open_poses:
        say(f"going on with pose {min(session.open_poses) + 1} of {len(session.poses)}")
    take_images(rig, session, detector, say)
    return session


def solve_session(session: Session) -> tuple[Solution, Views]:
    """Find the poses of the cameras from the images of a session.

    Returns:
        The solution, with the fixed camera where the session has one, and the corners in the images.

    Raises:
        CalibrationError: There are too few images, or they do not determine the poses.
    """
    detector = BoardDetector(session.board)
    views = {name: read_views(session, detector, name) for name in session.cameras}
    wrist = views[WRIST]
    joints = np.array([session.taken[number] for number in wrist]).reshape(-1, 6)
    scene = None
    if SCENE in session.cameras:
        scene = SceneViews(list(views[SCENE].values()), session.cameras[SCENE].intrinsics)
    gripper, intrinsics = get_gripper(session.gripper), session.cameras[WRIST].intrinsics
    return solve(gripper, joints, list(wrist.values()), intrinsics, detector, scene), views


def updated_calibration(known: Calibration | None, session: Session, solution: Solution) -> Calibration:
    """Return a calibration with the poses that a session has measured.

    Raises:
        CalibrationError: The known calibration is of another gripper.
    """
    if known is not None and known.gripper != session.gripper:
        raise CalibrationError(
            f"The calibration is of the gripper {known.gripper}, the arm has {session.gripper}: give another file."
        )
    cameras = dict(known.cameras) if known is not None else {}
    for name, pose in camera_poses(solution).items():
        camera = session.cameras[name]
        cameras[name] = CameraCalibration(camera.serial, camera.intrinsics, pose)
    return Calibration(session.gripper, now(), session.board, cameras, joint_offsets(solution))


def with_lens(
    known: Calibration | None, gripper: str, board: BoardSpec, name: str, serial: str, intrinsics: CameraIntrinsics
) -> Calibration:
    """Return a calibration with measured intrinsics of a camera; its pose has to be measured again with them."""
    base = Calibration(gripper, now(), board) if known is None else replace(known, created=now())
    return replace(base, cameras={**base.cameras, name: CameraCalibration(serial, intrinsics)})


def now() -> str:
    """Return date and time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _with_known_lens(name: str, camera: SessionCamera, known: Calibration | None) -> SessionCamera:
    found = None if known is None else known.cameras.get(name)
    if found is None or found.serial != camera.serial or found.intrinsics.source != "measured":
        return camera
    same = (found.intrinsics.width, found.intrinsics.height) == (camera.intrinsics.width, camera.intrinsics.height)
    return SessionCamera(camera.serial, found.intrinsics) if same else camera
