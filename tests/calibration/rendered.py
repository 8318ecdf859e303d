"""Rendered images of a calibration whose truth is known, with the errors of an arm."""

import contextlib

import cv2
import numpy as np

from smolvla_gym.calibration import geometry
from smolvla_gym.calibration.bundle import SceneViews, solve
from smolvla_gym.calibration.detection import BoardDetector
from smolvla_gym.calibration.geometry import distance, make_pose, rotation_from_vector, tool_poses
from smolvla_gym.calibration.planning import choose_poses, find_candidates, order_poses
from smolvla_gym.calibration.virtual import VirtualViews, board_plate, board_pose
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Intrinsics
from smolvla_gym.parol6 import NUM_JOINTS, STANDBY, get_gripper
from smolvla_gym.parol6.calibration import BoardSpec, CameraIntrinsics
from smolvla_gym.parol6.inverse_kinematics import solve as inverse_kinematics
from smolvla_gym.safety.collision import CollisionGuard

GRIPPER, SPEC = get_gripper("ssg48"), BoardSpec()
LOOK = inverse_kinematics((0.20, 0.0, 0.17), 0.3, GRIPPER)
"""A pose that looks at the board, in rad."""


def camera_intrinsics(view: Intrinsics) -> CameraIntrinsics:
    return CameraIntrinsics(view.width, view.height, view.fx, view.fy, view.ppx, view.ppy)


WRIST = camera_intrinsics(D405_COLOUR)
SCENE = camera_intrinsics(Intrinsics.from_fovy(42.5, 640, 480))


@contextlib.contextmanager
def longer_links(lengths):
    """Make the kinematics believe in links that are not those of the model, shape (6, 2) in m."""
    rows = geometry.dh_rows

    def changed(gripper):
        found = rows(gripper)
        found[:, :2] += lengths
        return found

    if lengths is not None:
        geometry.dh_rows = changed
    try:
        yield
    finally:
        geometry.dh_rows = rows


class Rig:
    """An arm over a board, whose images have noise and whose joints deviate."""

    def __init__(self, position=(0.24, 0.0, 0.002), yaw=0.0):
        self.plate = board_plate(SPEC, position, yaw)
        self.views = VirtualViews(GRIPPER, self.plate)
        self.detector = BoardDetector(SPEC)
        self.board = board_pose(SPEC, self.plate)
        self.hand_eye, self.scene = self.views.camera_pose("wrist"), self.views.camera_pose("scene")

    def shoot(self, name, joints, rng=None):
        intrinsics = WRIST if name == "wrist" else SCENE
        image = self.views.render(name, joints, intrinsics, scale=2)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (intrinsics.width, intrinsics.height), interpolation=cv2.INTER_AREA)
        if rng is not None:
            grey = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.7) + rng.normal(0.0, 2.0, grey.shape)
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)

    def poses(self, count=15, wanted=60):
        found = find_candidates(
            GRIPPER, self.hand_eye, self.board, WRIST, self.detector, CollisionGuard("ssg48"),
            lambda joints: self.views.render("wrist", joints, WRIST), np.random.default_rng(0), wanted=wanted,
        )  # fmt: skip
        chosen = choose_poses(found, count, GRIPPER, self.hand_eye, self.board, WRIST, self.detector)
        poses = found.joints[chosen]
        return poses[order_poses(poses, STANDBY)]

    def truth(self, homing):
        """The camera poses that commanded angles see: the offsets of J1 and J6 turn the base and the tool."""
        last = np.zeros(NUM_JOINTS)
        last[5] = homing[5]
        tool = np.linalg.inv(tool_poses(np.zeros(NUM_JOINTS), GRIPPER)) @ tool_poses(last, GRIPPER)
        base = make_pose(rotation_from_vector(np.array([0.0, 0.0, homing[0]])), np.zeros(3))
        return tool @ self.hand_eye, np.linalg.inv(base) @ self.scene

    def calibrate(self, seed, poses, *, homing=0.3, noise=0.1, links=0.0):
        """Return the solution, and the errors of wrist and scene in mm and deg, and of the offsets in deg."""
        rng = np.random.default_rng(seed)
        offsets = np.deg2rad(rng.uniform(-homing, homing, NUM_JOINTS))
        true = poses + offsets + np.deg2rad(rng.uniform(-noise, noise, poses.shape))
        # Links that are longer in the kinematics than in the model are the same as the reverse.
        lengths = rng.normal(0.0, links, (NUM_JOINTS, 2)) if links else None
        views, joints, scene = [], [], []
        for reported, actual in zip(poses, true, strict=True):
            found = self.detector.detect(self.shoot("wrist", actual, rng))
            if found is not None:
                views.append(found)
                joints.append(reported)
            if (seen := self.detector.detect(self.shoot("scene", actual, rng))) is not None:
                scene.append(seen)
        with longer_links(lengths):
            solution = solve(GRIPPER, np.array(joints), views, WRIST, self.detector, SceneViews(scene, SCENE))
        hand_eye, scene_pose = self.truth(offsets)
        errors = []
        for one, other in ((solution.state.hand_eye, hand_eye), (solution.scene, scene_pose)):
            metres, radians = distance(one, other)
            errors += [1e3 * metres, np.rad2deg(radians)]
        errors.append(np.rad2deg(np.abs(solution.state.offsets - offsets[1:5]).max()))
        return solution, errors
