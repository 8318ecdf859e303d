"""Messages drive the arm: a stream of commands, trajectories, or the start of the policy."""

import time

import numpy as np
import pytest

from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.parol6 import GRIPPERS, JOINT_NAMES
from tests.integrations.bridge.memory import Arm, command
from tests.integrations.bridge.messages import trajectory


@pytest.fixture(scope="module")
def shared():
    arm = Arm()
    yield arm
    arm.env.close()


@pytest.fixture
def arm(shared):
    shared.rest()
    return shared


@pytest.mark.realtime
def test_a_stream_of_commands_its_silence_and_the_emergency_stop(connect):
    """Over DDS, at the rate of the clock."""
    end = connect()
    begin = end.joints
    stop_at = time.monotonic() + 1.0
    while time.monotonic() < stop_at:
        end.joint_command(joint_1=2.1, gripper=0.25)
        end.look()
        time.sleep(0.03)
    assert end.status["mode"] == "commands"
    end.wait(lambda: end.events_of("commander_silent"))
    assert end.events_of("commander_silent")[0]["stopped"]
    time.sleep(0.5)
    end.look()
    stopped = end.joints
    assert begin[0] + 0.1 < stopped[0] < 2.05
    time.sleep(0.5)
    end.look()
    np.testing.assert_allclose(end.joints, stopped, atol=2e-3)
    assert end.status["opening"] == pytest.approx(0.25, abs=0.03)
    assert end.seen["/joint_states"]["name"] == [*JOINT_NAMES, "jaw_left", "jaw_right"]
    jaw = end.seen["/joint_states"]["position"][6]
    assert jaw == pytest.approx(0.25 * GRIPPERS["ssg48"].stroke, abs=1e-3)
    clock, stamp = end.seen["/clock"]["clock"], end.seen["/joint_states"]["header"]["stamp"]
    assert abs(clock["sec"] - stamp["sec"]) <= 1
    end.publish("/estop", {"data": True})
    end.wait(lambda: end.events_of("fault"))
    end.wait(lambda: end.status["fault"] == "operator_stop")


@pytest.mark.parametrize(
    ("joints", "why"),
    [
        ({"elbow": 0.1}, "elbow"),
        ({"joint_1": float("nan")}, "finite"),
        ({}, "none given"),
        ({"joint_1": 57.0}, "joint_1 cannot go to 57"),  # degrees
        ({"gripper": 30.0}, "gripper cannot go to 30"),
    ],
)
def test_bad_commands_are_refused_and_nothing_moves(arm, joints, why):
    begin, measured = arm.commanded, arm.measured
    arm.send("/joint_commands", command(joints))
    arm.steps(10)
    assert why in arm.events("refused")[0]["why"]
    arm.send("/start", {})
    arm.steps(10)
    assert "--policy" in arm.events("refused")[1]["why"]
    np.testing.assert_array_equal(arm.commanded, begin)
    np.testing.assert_allclose(arm.measured, measured, atol=1e-3)


def test_a_trajectory_and_a_stop_in_its_middle(arm):
    begin = arm.measured
    goal = begin + np.array([0.3, 0.05, -0.05, 0.1, 0.1, -0.2])
    arm.send("/joint_trajectory", trajectory((1.5, goal)))
    arm.until(lambda: arm.events("trajectory_done"), 5.0)
    arm.steps(15)
    np.testing.assert_allclose(arm.measured, goal, atol=np.deg2rad(0.5))
    arm.send("/joint_trajectory", trajectory((1.5, begin)))
    arm.steps(15)
    assert len(arm.events("trajectory")) == 2
    arm.send("/stop", {})
    arm.steps(1)
    assert arm.events("stopped")
    arm.steps(15)
    held = arm.measured
    assert np.abs(held - begin).max() > 0.05
    arm.steps(9)
    np.testing.assert_allclose(arm.measured, held, atol=2e-3)


def test_a_slow_arm_is_done_when_it_is_there(arm):
    goal = arm.measured + np.array([1.5, 0, 0, 0, 0, 0])
    arm.send("/joint_trajectory", trajectory((0.2, goal)))
    arm.until(lambda: arm.events("trajectory_done"), 15.0)
    arm.until(lambda: abs(arm.measured[0] - goal[0]) < 0.02, 0.5)


def test_the_policy_drives_between_start_and_stop():
    arm = Arm(agent=lambda env: ExpertAgent())
    arm.send("/instruction", {"data": "go there"})
    arm.steps(1)
    assert arm.events("instruction")
    arm.send("/start", {})
    arm.steps(1)
    assert arm.events("started")[0]["instruction"] == "go there"
    arm.send("/joint_commands", command({"joint_1": 0.0}))
    arm.steps(1)
    assert "policy drives" in arm.events("refused")[0]["why"]
    arm.until(lambda: arm.status["is_success"], 30.0)
    arm.send("/stop", {})
    arm.steps(1)
    assert arm.events("stopped")
    arm.send("/reset", {})
    arm.steps(1)
    assert arm.events("ready")
    arm.env.close()
