"""Inverse against forward kinematics."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smolvla_gym.parol6 import GRIPPERS, JOINT_LOWER, JOINT_UPPER, forward_kinematics
from smolvla_gym.parol6.inverse_kinematics import follow, solve

GRIPPER = st.sampled_from(sorted(GRIPPERS)).map(GRIPPERS.get)
WORKSPACE = {"ssg48": ((0.12, 0.32), (-0.13, 0.13)), "pneumatic": ((0.27, 0.38), (-0.14, 0.14))}
ANGLE = st.floats(-np.pi, np.pi)


def modulo(angle, period):
    """An angle modulo a period, as near to zero as it can be."""
    return (angle + period / 2) % period - period / 2


def check(joints, position, yaw, gripper):
    assert np.all((joints >= JOINT_LOWER) & (joints <= JOINT_UPPER))
    pose = forward_kinematics(joints, gripper)
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3] @ gripper.approach, [0, 0, -1], atol=1e-9)
    jaw = pose[:3, 1]
    if gripper.dh_a == 0.0:
        assert abs(modulo(np.arctan2(jaw[1], jaw[0]) - yaw, np.pi)) < 1e-9


# Reach is not a box: what lies outside of it is thrown away.
REACHABLE = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


@REACHABLE
@given(GRIPPER, st.floats(0.05, 0.42), st.floats(-2.1, 2.1), st.floats(-0.1, 0.35), ANGLE, st.floats(0.0, 2 * np.pi))
def test_what_is_solved_is_reached_with_the_fingers_down(gripper, radius, angle, z, yaw, near_j6):
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    joints = solve((x, y, z), yaw, gripper, near_j6)
    assume(joints is not None)
    check(joints, (x, y, z), yaw, gripper)


@settings(max_examples=400, deadline=None)
@given(GRIPPER, st.floats(0, 1), st.floats(0, 1), st.floats(0.012, 0.10), ANGLE, st.floats(0.0, 2 * np.pi))
def test_every_grasp_in_the_workspace_is_solved(gripper, u, v, z, yaw, near_j6):
    (x0, x1), (y0, y1) = WORKSPACE[gripper.name]
    position = (x0 + u * (x1 - x0), y0 + v * (y1 - y0), z)
    joints = solve(position, yaw, gripper, near_j6)
    assert joints is not None
    check(joints, position, yaw, gripper)


@REACHABLE
@given(GRIPPER, st.lists(st.floats(0.001, 0.999), min_size=4, max_size=4))
def test_any_elbow_up_pose_with_the_fingers_down_is_found_again(gripper, shares):
    low, high = JOINT_LOWER[[0, 1, 2, 5]], JOINT_UPPER[[0, 1, 2, 5]]
    q1, q2, q3, q6 = low + np.array(shares) * (high - low)
    if gripper.dh_a != 0.0:
        q6 = np.pi
    # Where J5 has to be for the fingers to point down, read from the pose that J5 = 0 gives; J5 turns either way.
    level = forward_kinematics([q1, q2, q3, 0, 0, q6], gripper)[:3, :3] @ gripper.approach
    missing = modulo(np.arctan2(level[2], np.cos(q1) * level[0] + np.sin(q1) * level[1]) + np.pi / 2, 2 * np.pi)
    poses = {q: forward_kinematics([q1, q2, q3, 0, q, q6], gripper) for q in (missing, -missing)}
    q5 = next((q for q, p in poses.items() if np.linalg.norm(p[:3, :3] @ gripper.approach + [0, 0, 1]) < 1e-9), None)
    assert q5 is not None
    assume(abs(q5) < np.pi / 2 - 1e-9)
    pose = poses[q5]
    # Elbow up, and the tool before the arm, not folded over its head: there the turntable could point either way.
    elbow_up = q3 - np.pi + np.arctan2(0.0435, 0.17635) < np.pi / 2 - 1e-6
    outwards = pose[:2, 3] @ [np.cos(q1), np.sin(q1)] > 1e-6
    assume(elbow_up and outwards)
    jaw = pose[:3, 1]
    joints = solve(pose[:3, 3], np.arctan2(jaw[1], jaw[0]), gripper, near_j6=q6)
    assert joints is not None
    np.testing.assert_allclose(joints[:5], [q1, q2, q3, 0, q5], atol=1e-6)
    # The jaws are alike; at the very end of J6 rounding may send it half a turn away.
    assert abs(modulo(joints[5] - q6, np.pi)) < 1e-6


@pytest.mark.parametrize("position", [(0.7, 0, 0.1), (0, 0.6, 0.3), (0.3, 0, 0.9), (0.02, 0, -0.6), (-0.25, 0, 0.1)])
@pytest.mark.parametrize("gripper", GRIPPERS.values(), ids=GRIPPERS)
def test_out_of_reach_is_none(position, gripper):
    assert solve(position, 0.0, gripper) is None


@settings(max_examples=200, deadline=None)
@given(ANGLE, st.floats(np.pi / 2, 3 * np.pi / 2))
def test_j6_turns_as_little_as_the_jaws_allow(yaw, near_j6):
    joints = solve((0.22, 0.05, 0.05), yaw, GRIPPERS["ssg48"], near_j6)
    assert abs(joints[5] - near_j6) <= np.pi / 2 + 1e-9


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_on_one_branch_any_step_is_followed(gripper):
    rng, mounted, followed = np.random.default_rng(7), GRIPPERS[gripper], 0
    (x0, x1), (y0, y1) = WORKSPACE[gripper]
    for _ in range(300):
        first, second = rng.uniform([x0, y0, 0.01], [x1, y1, 0.15], (2, 3))
        yaw = rng.uniform(-np.pi, np.pi)
        joints = solve(first, yaw, mounted, near_j6=np.pi)
        wanted = solve(second, yaw + 0.3, mounted, near_j6=joints[5])
        if wanted is None or abs(wanted[5] - joints[5]) > np.pi / 2:  # the end of J6's range
            continue
        followed += 1
        np.testing.assert_array_equal(follow(joints, second, yaw + 0.3, mounted), wanted)
    assert followed > 200


def test_another_branch_is_not_gone_to():
    ssg48 = GRIPPERS["ssg48"]
    joints = solve((0.2, 0.0, 0.17), np.pi / 2, ssg48, near_j6=np.pi)
    at_end = joints + np.array([0, 0, 0, 0, 0, 3.1])
    yaw = np.pi / 2 + 3.1
    assert follow(at_end, (0.2, 0.0, 0.17), yaw - 0.02, ssg48) is not None
    assert solve((0.2, 0.0, 0.17), yaw + 0.1, ssg48, near_j6=at_end[5])[5] < 3.3
    assert follow(at_end, (0.2, 0.0, 0.17), yaw + 0.1, ssg48) is None
    # Around the axis of J1 a step of 2 cm would turn the whole arm.
    air = GRIPPERS["pneumatic"]
    before = next(j for z in np.arange(0.2, 0.5, 0.01) if (j := solve((0.01, 0.001, z), 0.0, air)) is not None)
    z = forward_kinematics(before, air)[2, 3]
    assert solve((-0.005, 0.01, z), 0.0, air) is not None
    assert follow(before, (-0.005, 0.01, z), 0.0, air) is None
