import numpy as np
import pytest

from smolvla_gym.calibration.geometry import make_pose
from smolvla_gym.calibration.planning import MIN_PLANNED_CORNERS, find_candidates, order_poses, reachable_poses
from smolvla_gym.errors import CalibrationError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, MAX_SPEED, STANDBY
from smolvla_gym.safety.collision import CollisionGuard
from tests.calibration.rendered import GRIPPER, WRIST


def test_poses_have_no_contacts_and_their_views_show_the_board(rig, poses):
    guard = CollisionGuard("ssg48")
    assert len(poses) == 15
    for joints in poses:
        assert (joints > JOINT_LOWER).all()
        assert (joints < JOINT_UPPER).all()
        assert guard.violations(joints.tolist(), 1.0) == {}
        assert len(rig.detector.detect(rig.views.render("wrist", joints, WRIST))) >= MIN_PLANNED_CORNERS


def test_the_order_makes_the_way_shorter(poses):
    def way(order):
        route = np.array([STANDBY, *poses[order]])
        return np.sum(np.max(np.abs(np.diff(route, axis=0)) / MAX_SPEED, axis=1))

    order = order_poses(poses, STANDBY)
    assert sorted(order) == list(range(len(poses)))
    assert way(order) < way(np.random.default_rng(0).permutation(len(poses)))


def test_the_safety_gate_lets_the_arm_reach_the_poses(poses):
    guard = CollisionGuard("ssg48")
    below = poses[0].copy()
    below[1] = JOINT_UPPER[1]
    assert guard.violations(below.tolist(), 1.0)
    assert reachable_poses([poses[0], below, poses[1]], STANDBY, 1.0, guard) == [0, 2]


def test_a_board_out_of_reach_is_an_error_with_advice(rig):
    away = make_pose(rig.board[:3, :3], [2.0, 0.0, 0.0])
    with pytest.raises(CalibrationError, match="24 cm"):
        find_candidates(
            GRIPPER, rig.hand_eye, away, WRIST, rig.detector, CollisionGuard("ssg48"),
            lambda joints: np.zeros((480, 640, 3), np.uint8), np.random.default_rng(0),
        )  # fmt: skip
