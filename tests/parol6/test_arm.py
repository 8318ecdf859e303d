"""The numbers of the arm against a second, independent computation from the documented tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolvla_gym.errors import UnknownNameError
from smolvla_gym.parol6 import (
    GRIPPERS,
    HOME,
    JOINT_LOWER,
    JOINT_UPPER,
    MAX_ACCELERATION,
    MAX_SPEED,
    STANDBY,
    forward_kinematics,
    get_gripper,
    rad_from_steps,
    steps_from_rad,
)

CHECK_POINTS = [  # joints in deg, tool centre point of the air gripper in mm, as the data sheet's table gives them
    ((0, -90, 180, 0, 0, 180), (262.57, 0, 288.75)),
    ((90, -90, 180, 0, 0, 180), (0, 262.57, 288.75)),
    ((0, -45, 180, 0, 0, 180), (318.57, 0, 67.44)),
    ((0, -90, 180, 0, 90, 180), (245.02, 0, 396.80)),
    ((30, -60, 150, 20, -30, 200), (196.38, 69.64, 77.31)),
]


@pytest.mark.parametrize(("degrees", "millimetres"), CHECK_POINTS)
def test_forward_kinematics_meets_the_documented_poses(degrees, millimetres):
    pose = forward_kinematics(np.deg2rad(degrees), get_gripper("pneumatic"))
    np.testing.assert_allclose(pose[:3, 3] * 1000, millimetres, atol=0.006)


@given(st.lists(st.integers(-100_000, 100_000), min_size=6, max_size=6))
def test_steps_survive_the_way_to_radians_and_back(steps):
    assert steps_from_rad(rad_from_steps(steps)).tolist() == steps


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_radians_come_back_within_half_a_microstep(shares):
    joints = JOINT_LOWER + np.array(shares) * (JOINT_UPPER - JOINT_LOWER)
    half_step = np.pi / (6400 * np.array([6.4, 20.0, 20 * 38 / 42, 4.0, 4.0, 10.0]))
    assert np.all(np.abs(rad_from_steps(steps_from_rad(joints)) - joints) <= half_step * (1 + 1e-9))


def test_home_is_what_the_board_counts_after_homing():
    assert steps_from_rad(HOME).tolist() == [10240, -32000, 57905, 0, 0, 32000]
    np.testing.assert_allclose(np.rad2deg(HOME), [90, -90, 180, 0, 0, 180], atol=0.002)
    np.testing.assert_allclose(np.rad2deg(STANDBY), [0, -90, 180, 0, 0, 180], atol=1e-9)


def test_limits_are_the_documented_ones_and_hold_home():
    np.testing.assert_allclose(np.rad2deg(JOINT_LOWER), [-123.046875, -145.0088, 107.866, -105.46975, -90, 0])
    np.testing.assert_allclose(np.rad2deg(JOINT_UPPER), [123.046875, -3.375, 287.8675, 105.46975, 90, 360])
    for pose in (HOME, STANDBY):
        assert np.all((pose > JOINT_LOWER) & (pose < JOINT_UPPER))


def test_speed_and_acceleration_are_below_what_either_program_of_the_maker_uses():
    programs = np.array([[2.301, 1.227, 1.736, 2.454, 2.454, 2.651], [0.997, 0.884, 1.085, 5.400, 5.400, 2.160]])
    assert np.all(programs.min(axis=0) + 1e-3 >= MAX_SPEED)
    accelerations = np.array([[6.90, 3.68, 5.21, 7.36, 7.36, 7.95], [4.91, 1.57, 1.74, 7.85, 7.85, 3.14]])
    assert np.all(accelerations.min(axis=0) + 0.01 >= MAX_ACCELERATION)


def test_constants_cannot_be_changed_by_accident():
    for constant in (JOINT_LOWER, JOINT_UPPER, MAX_SPEED, MAX_ACCELERATION, HOME, STANDBY):
        with pytest.raises(ValueError, match="read-only"):
            constant[0] = 0.0


@pytest.mark.parametrize("name", ["ssg-48", None, ["ssg48"]])
def test_an_unknown_gripper_is_refused_with_those_that_exist(name):
    with pytest.raises(UnknownNameError, match="Known: ssg48, pneumatic"):
        get_gripper(name)
    assert set(GRIPPERS) == {"ssg48", "pneumatic"}
