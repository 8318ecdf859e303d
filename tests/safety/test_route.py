"""Routes and homings are checked before the arm moves, as the gate checks them while it moves."""

import numpy as np
import pytest

from smolvla_gym.envs.backends.homing_check import SAFE_POSES, homing_contact
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, STANDBY
from smolvla_gym.safety import SafetyGate, Violation
from smolvla_gym.safety.collision import CollisionGuard
from smolvla_gym.safety.route import BlockedError, find_route
from smolvla_gym.sim.world import start_pose

GUARDS = {name: CollisionGuard(name) for name in GRIPPERS}


@pytest.mark.parametrize("opening", [0.0, 1.0])
@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_homing_from_a_safe_pose_touches_nothing(gripper, opening):
    for pose in SAFE_POSES:
        assert homing_contact(pose, opening, GUARDS[gripper], gripper) is None


def test_homing_from_where_episodes_begin_folds_the_gripper_into_the_base():
    assert "the link1" in homing_contact(start_pose(GRIPPERS["ssg48"]), 1.0, GUARDS["ssg48"], "ssg48")


def test_homing_with_j1_behind_its_switch_never_ends():
    behind = STANDBY + np.array([np.deg2rad(-60), 0, 0, 0, 0, 0])
    assert "joint_1" in homing_contact(behind, 1.0, GUARDS["ssg48"], "ssg48")


def test_the_border_of_the_workspace_does_not_keep_an_arm_from_homing():
    small = CollisionGuard("ssg48", workspace=((0.1, -0.2, 0.0), (0.2, 0.2, 0.3)))
    assert small.violations(HOME.tolist(), 1.0)
    assert homing_contact(HOME, 1.0, small, "ssg48") is None


def walk(route, start, guard):
    """Drive a route; return its end and the stops of the gate."""
    gate = SafetyGate(1 / 30, guard=guard)
    gate.reset(start)
    events = []
    for pose in route:
        gate.aim(np.append(pose, 1.0))
        while not gate.at_rest:
            events += gate.advance(0.01)
    return gate.position, events


def test_a_route_is_one_that_the_gate_lets_pass():
    guard, rng, found = GUARDS["ssg48"], np.random.default_rng(3), set()
    starts = [np.array([-2.0, -0.09, 4.45, -1.39, 1.09, 1.62]), start_pose(GRIPPERS["ssg48"])]
    goals = [np.array([-1.09, -0.62, 4.26, 1.27, -1.14, 4.7]), HOME + rng.uniform(-0.5, 0.5, 6)]
    for start, goal in zip(starts, goals, strict=True):
        route = find_route(start, 1.0, goal, 1.0, guard)
        found.add(len(route))
        end, events = walk(route, start, guard)
        np.testing.assert_allclose(end, goal, atol=1e-3)
        assert events == []
    assert found == {1, 2}


def test_where_every_way_is_blocked_it_says_by_what():
    class Wall:
        def violations(self, joints, opening):
            return {Violation("collision", "the wall and the arm"): 0.01} if joints[0] > 0.5 else {}

    with pytest.raises(BlockedError, match="the wall and the arm"):
        find_route(STANDBY, 1.0, HOME, 1.0, Wall())


def test_without_a_guard_the_way_is_straight():
    (pose,) = find_route(STANDBY, 1.0, JOINT_LOWER, 0.0, None)
    np.testing.assert_array_equal(pose, JOINT_LOWER)
