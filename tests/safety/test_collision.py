"""No commanded pose penetrates the table or the arm itself, or leaves the workspace."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, JOINT_UPPER, STANDBY, forward_kinematics
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.safety import SafetyGate, Violation
from smolvla_gym.safety.collision import WORKSPACE, CollisionGuard, Obstacles
from smolvla_gym.sim.world import start_pose

SSG48 = GRIPPERS["ssg48"]
GUARD = CollisionGuard("ssg48")
SPAN = JOINT_UPPER - JOINT_LOWER


def down(height, x=0.22):
    """Joint angles with the fingertips pointing down at a height in m."""
    pose = solve((x, 0.0, height), np.pi / 2, SSG48)
    assert pose is not None
    return pose


@pytest.mark.parametrize("gripper", sorted(GRIPPERS))
def test_ordinary_poses_have_no_contacts(gripper):
    guard = CollisionGuard(gripper)
    for pose in (HOME, STANDBY, start_pose(GRIPPERS[gripper])):
        for opening in (0.0, 1.0):
            assert guard.violations(pose.tolist(), opening) == {}


def test_contacts_are_named_with_their_penetration():
    tips = 0.009  # the fingers reach 9 mm beyond the tool centre point
    assert GUARD.violations(down(tips + 0.001).tolist(), 1.0) == {}
    assert GUARD.violations(down(tips - 0.005).tolist(), 1.0) == {
        Violation("collision", "the table and the jaw_left"): pytest.approx(0.005, abs=1e-4),
        Violation("collision", "the table and the jaw_right"): pytest.approx(0.005, abs=1e-4),
    }
    found = GUARD.violations(np.deg2rad([-20, -120, 110, 60, -70, 230]).tolist(), 1.0)
    assert found[Violation("collision", "the link1 and the gripper")] > 0.01


def test_the_tool_stays_in_the_workspace():
    guard = CollisionGuard("ssg48", workspace=((0.1, -0.2, 0.0), (0.2, 0.2, 0.3)))
    assert guard.violations(down(0.1, x=0.23).tolist(), 1.0) == {
        Violation("workspace", "the tool and the border of the workspace in x"): pytest.approx(0.03, abs=1e-6)
    }
    assert guard.violations(down(0.1, x=0.15).tolist(), 1.0) == {}


def test_a_way_out_of_the_workspace_ends_at_its_border_and_is_an_intervention():
    gate = SafetyGate(1 / 30, guard=CollisionGuard("ssg48", workspace=((0.1, -0.2, 0.0), (0.25, 0.2, 0.3))))
    gate.reset(down(0.1))
    stops = []
    for _ in range(60):
        gate.aim(np.append(down(0.1, x=0.3), 1.0))
        stops += gate.travel(1 / 30, 1)[2]
    assert {(stop["rule"], stop["where"]) for stop in stops} == {
        ("workspace", "the tool and the border of the workspace in x")
    }
    assert forward_kinematics(gate.position, SSG48)[0, 3] <= 0.25 + 1e-6


def test_outside_the_workspace_the_table_is_guarded_too():
    gate = SafetyGate(1 / 30, guard=CollisionGuard("ssg48", workspace=((0.25, -0.2, 0.0), (0.45, 0.2, 0.5))))
    gate.reset(HOME)
    for _ in range(150):
        gate.aim(np.append(np.deg2rad([50, -20, 140, 0, 0, 180]), 1.0))
        for joints in gate.travel(1 / 30, 3)[0]:
            found = GUARD.violations(joints.tolist(), 1.0)
            assert max(found.values(), default=0.0) < 5e-3, found


@pytest.mark.parametrize(
    "workspace", [None, "table", ((0, 0), (1, 1)), ((0, 0, 0), (1, 1, 0)), ((0, 0, np.nan), (1, 1, 1))]
)
def test_a_workspace_is_a_box(workspace):
    with pytest.raises(OptionError, match=r"workspace=.*corner"):
        CollisionGuard("ssg48", workspace=workspace)


@settings(max_examples=40, deadline=None)
@example(27075)  # its stop dips into the table on the way, and ends above it
@given(st.integers(0, 2**32 - 1))
def test_no_sequence_of_targets_gets_the_gate_to_command_a_contact(seed):
    rng = np.random.default_rng(seed)
    gate = SafetyGate(1 / 30, guard=GUARD)
    gate.reset(start_pose(SSG48))
    opening = rng.random()
    for _ in range(25):
        target = np.append(JOINT_LOWER + rng.random(6) * SPAN, opening)
        for _ in range(int(rng.integers(1, 40))):
            gate.aim(target)
            for joints in gate.travel(1 / 30, 5)[0]:
                found = GUARD.violations(joints.tolist(), gate.opening)
                # Between two checks the arm may graze what it stops in front of.
                assert max(found.values(), default=0.0) < 5e-3, found
        x, y, z = forward_kinematics(gate.position, SSG48)[:3, 3]
        low, high = np.array(WORKSPACE)
        # While it brakes it may graze the border, too; the place where it would come to rest is looked at.
        assert np.all((low - 5e-3 <= (x, y, z)) & ((x, y, z) <= high + 5e-3))
    gate.hold()
    while not gate.at_rest:
        gate.advance(1 / 30)
    place = forward_kinematics(gate.position, SSG48)[:3, 3]
    assert np.all((low - 1e-6 <= place) & (place <= high + 1e-6))


def test_a_way_into_the_table_ends_above_it_and_says_so_and_back_up_is_free():
    gate = SafetyGate(1 / 30, guard=GUARD)
    gate.reset(down(0.08))
    stops = []
    for _ in range(90):
        assert gate.aim(np.append(down(-0.05), 1.0)).interventions == ()
        stops += gate.travel(1 / 30, 1)[2]
    height = forward_kinematics(gate.position, SSG48)[2, 3]
    assert 0.009 <= height < 0.03
    assert {stop["rule"] for stop in stops} == {"collision"}
    assert {stop["where"] for stop in stops} <= {"the table and the jaw_left", "the table and the jaw_right"}
    assert "mm" in stops[0]["why"]
    for _ in range(60):
        gate.aim(np.append(down(0.08), 1.0))
        gate.travel(1 / 30, 1)
    np.testing.assert_allclose(gate.position, down(0.08), atol=1e-6)


def test_an_arm_that_begins_in_the_table_may_come_out_of_it():
    gate = SafetyGate(1 / 30, guard=GUARD)
    gate.reset(down(0.002))
    for _ in range(30):
        gate.aim(np.append(down(-0.02), 1.0))
        gate.travel(1 / 30, 1)
    assert forward_kinematics(gate.position, SSG48)[2, 3] > 0.0015
    for _ in range(60):
        gate.aim(np.append(down(0.08), 1.0))
        gate.travel(1 / 30, 1)
    np.testing.assert_allclose(gate.position, down(0.08), atol=1e-6)


def test_an_obstacle_is_named_with_its_penetration():
    box = ((0.15, -0.05, 0.0), (0.30, 0.05, 0.10))
    guard = CollisionGuard("ssg48", obstacles=Obstacles((("crate", box),)))
    assert guard.violations(down(0.111).tolist(), 1.0) == {}
    found = guard.violations(down(0.10).tolist(), 1.0)
    assert found[Violation("collision", "the obstacle crate and the jaw_left")] == pytest.approx(0.009, abs=1e-3)
    # What it allows the guard without obstacles allows, too.
    rng = np.random.default_rng(0)
    for pose in JOINT_LOWER + rng.random((50, 6)) * SPAN:
        assert GUARD.violations(pose.tolist(), 1.0).keys() <= guard.violations(pose.tolist(), 1.0).keys()


def test_a_higher_table_is_solid():
    guard = CollisionGuard("ssg48", obstacles=Obstacles(height=0.05, top=((0.13, -0.4), (0.5, 0.4))))
    assert guard.violations(down(0.06).tolist(), 1.0) == {}
    found = guard.violations(down(0.05).tolist(), 1.0)
    assert found[Violation("collision", "the table and the jaw_left")] == pytest.approx(0.009, abs=1e-3)
