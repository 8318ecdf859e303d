"""Messages drive the arm: a stream of commands, trajectories, or the start of the policy."""

import time

import numpy as np
import pytest

from smolvla_gym.parol6 import GRIPPERS, JOINT_NAMES
from tests.integrations.bridge.messages import trajectory


@pytest.mark.realtime
def test_a_stream_of_commands_and_its_silence(connect):
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
@pytest.mark.realtime
def test_bad_commands_are_refused_and_nothing_moves(connect, joints, why):
    end = connect()
    begin = end.joints
    end.joint_command(**joints)
    end.wait(lambda: end.events_of("refused"))
    assert why in end.events_of("refused")[0]["why"]
    end.publish("/start", {})
    end.wait(lambda: len(end.events_of("refused")) > 1)
    assert "--policy" in end.events_of("refused")[1]["why"]
    end.look()
    np.testing.assert_allclose(end.joints, begin, atol=1e-3)


@pytest.mark.realtime
def test_a_trajectory_and_a_stop_in_its_middle(connect):
    end = connect()
    begin = end.joints
    goal = begin + np.array([0.3, 0.05, -0.05, 0.1, 0.1, -0.2])
    end.publish("/joint_trajectory", trajectory((1.5, goal)))
    end.wait(lambda: end.events_of("trajectory_done"))
    time.sleep(0.5)
    end.look()
    np.testing.assert_allclose(end.joints, goal, atol=np.deg2rad(0.5))
    end.publish("/joint_trajectory", trajectory((1.5, begin)))
    end.wait(lambda: len(end.events_of("trajectory")) == 2)
    time.sleep(0.5)
    end.publish("/stop", {})
    end.wait(lambda: end.events_of("stopped"))
    time.sleep(0.5)
    end.look()
    held = end.joints
    assert np.abs(held - begin).max() > 0.05
    time.sleep(0.3)
    end.look()
    np.testing.assert_allclose(end.joints, held, atol=2e-3)


@pytest.mark.realtime
def test_a_slow_arm_is_done_when_it_is_there(connect):
    end = connect()
    begin = end.joints
    goal = begin + np.array([1.5, 0, 0, 0, 0, 0])
    end.publish("/joint_trajectory", trajectory((0.2, goal)))
    end.wait(lambda: end.events_of("trajectory_done"))
    end.wait(lambda: abs(end.joints[0] - goal[0]) < 0.02, 0.5)


@pytest.mark.realtime
def test_the_policy_drives_between_start_and_stop(connect):
    end = connect(expert=True)
    end.publish("/instruction", {"data": "go there"})
    end.wait(lambda: end.events_of("instruction"))
    end.publish("/start", {})
    end.wait(lambda: end.events_of("started"))
    assert end.events_of("started")[0]["instruction"] == "go there"
    end.joint_command(joint_1=0.0)
    end.wait(lambda: end.events_of("refused"))
    assert "policy drives" in end.events_of("refused")[0]["why"]
    end.wait(lambda: end.status["is_success"], 30)
    end.publish("/stop", {})
    end.wait(lambda: end.events_of("stopped"))
    end.publish("/reset", {})
    end.wait(lambda: len(end.events_of("ready")) >= 1)
