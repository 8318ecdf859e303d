import cv2
import numpy as np
import pytest

from smolvla_gym.calibration.geometry import (
    apply_change,
    invert,
    make_pose,
    project,
    quaternion_from_rotation,
    rotation_from_vector,
    tool_poses,
    vector_from_rotation,
)
from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, forward_kinematics
from smolvla_gym.parol6.calibration import CameraPose


@pytest.mark.parametrize("gripper", GRIPPERS.values(), ids=str)
def test_many_tool_poses_are_those_of_the_kinematics(gripper):
    joints = np.random.default_rng(0).uniform(JOINT_LOWER, JOINT_UPPER, (20, 6))
    expected = [forward_kinematics(one, gripper) for one in joints]
    np.testing.assert_allclose(tool_poses(joints, gripper), expected, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 1.0, np.pi - 1e-6])
def test_rotations_come_back_from_vectors_and_quaternions(angle):
    vector = angle * np.array([2.0, -1.0, 2.0]) / 3.0
    rotation = rotation_from_vector(vector)
    np.testing.assert_allclose(rotation, cv2.Rodrigues(vector)[0], atol=1e-12)
    np.testing.assert_allclose(vector_from_rotation(rotation), vector, atol=1e-9)
    quaternion = quaternion_from_rotation(rotation)
    pose = CameraPose("base", (0.0,) * 3, quaternion, (0.0,) * 3, (0.0,) * 3, 0.0, 1)
    np.testing.assert_allclose(pose.matrix[:3, :3], rotation, atol=1e-9)


def test_a_change_and_the_inverse_are_rigid():
    pose = make_pose(rotation_from_vector(np.array([0.3, -0.2, 0.9])), [0.1, 0.2, 0.3])
    changed = apply_change(pose, np.array([0.1, 0.0, 0.0, 0.01, 0.02, 0.03]))
    np.testing.assert_allclose(changed[:3, 3], [0.11, 0.22, 0.33])
    np.testing.assert_allclose(invert(changed) @ changed, np.eye(4), atol=1e-12)


def test_projection_is_that_of_opencv():
    rng = np.random.default_rng(1)
    pose = make_pose(rotation_from_vector(np.array([0.2, 0.1, -0.3])), [0.0, 0.0, 0.3])
    points, matrix = rng.uniform(-0.1, 0.1, (10, 3)), np.array([[430.0, 0, 317], [0, 429.0, 237], [0, 0, 1]])
    for distortion in (np.zeros(5), np.array([-0.28, 0.1, 1e-3, -2e-3, 0.02])):
        turn = cv2.Rodrigues(pose[:3, :3])[0]
        expected = cv2.projectPoints(points, turn, pose[:3, 3], matrix, distortion)[0].reshape(-1, 2)
        np.testing.assert_allclose(project(pose, points, matrix, distortion), expected, atol=1e-9)
