"""A stop works at once, whatever the arm is doing, and an emergency stop latches."""

import time

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from tests.envs.twin_rig import make_twin


@pytest.mark.realtime
def test_a_stop_does_not_open_the_gripper(connect):
    """The gripper keeps its commanded opening, though the object that it holds keeps the jaws apart."""
    end = connect(lambda: gym.make(smolvla_gym.SIM_ID, cameras=(), task="lift", max_episode_steps=-1), expert=True)
    end.publish("/start", {})
    end.wait(lambda: end.events_of("started"))
    end.wait(lambda: end.status["is_success"], 40)
    held = end.status["opening"]
    assert held > 0.3
    end.publish("/stop", {})
    end.wait(lambda: end.events_of("stopped"))
    end.joint_command(joint_1=float(end.joints[0]))
    time.sleep(1.0)
    end.look()
    assert end.status["opening"] == pytest.approx(held, abs=0.02)
    assert end.status["is_success"]  # it still is in the air


@pytest.mark.realtime
def test_a_stop_outdoes_what_came_with_it(connect):
    end = connect()
    begin = end.joints
    end.publish("/stop", {})
    for _ in range(3):
        end.publish("/reset", {})
        end.joint_command(joint_1=2.0)
        end.publish("/stop", {})
        time.sleep(0.1)
    end.wait(lambda: end.events_of("stopped"))
    time.sleep(0.7)
    end.look()
    assert end.joints[0] < begin[0] + 0.3


@pytest.mark.parametrize("backend", ["sim", "twin"])
@pytest.mark.realtime
def test_the_emergency_stop_latches(connect, backend):
    twin = {"cameras": (), "realtime": True, "max_episode_steps": -1}
    end = connect(None if backend == "sim" else lambda: make_twin(**twin))
    begin = end.joints
    for _ in range(12):
        end.joint_command(joint_1=begin[0] + 1.0)
        time.sleep(0.03)
    end.publish("/estop", {"data": True})
    end.wait(lambda: end.events_of("fault"))
    end.wait(lambda: end.status["fault"] == "operator_stop")
    end.joint_command(joint_1=begin[0])
    end.wait(lambda: end.events_of("refused"))
    assert "/clear_fault" in end.events_of("refused")[0]["why"]
    time.sleep(1.0)
    end.look()
    held = end.joints
    time.sleep(0.3)
    end.look()
    np.testing.assert_allclose(end.joints, held, atol=2e-3)
    end.publish("/clear_fault", {})
    end.wait(lambda: end.events_of("cleared"))
    stop_at = time.monotonic() + 1.0
    while time.monotonic() < stop_at:
        end.joint_command(joint_1=held[0] + 0.3)
        end.look()
        time.sleep(0.03)
    assert end.joints[0] > held[0] + 0.05


@pytest.mark.realtime
def test_a_stop_is_heard_while_the_arm_drives_by_itself(connect):
    end = connect(lambda: make_twin(cameras=(), realtime=True, max_episode_steps=-1))
    start = end.joints
    away = start[0] + 1.6
    stop_at = time.monotonic() + 15
    while end.joints[0] < away - 0.05:
        assert time.monotonic() < stop_at
        end.joint_command(joint_1=away)
        end.look()
        time.sleep(0.03)
    end.publish("/reset", {})  # it drives back, for more than a second
    end.wait(lambda: end.events_of("reset"))
    time.sleep(0.3)
    end.publish("/estop", {"data": True})
    end.wait(lambda: end.events_of("fault"))
    end.wait(lambda: end.status["fault"] == "operator_stop")
    time.sleep(1.0)
    end.look()
    assert end.joints[0] > start[0] + 0.4
    end.publish("/clear_fault", {})
    end.wait(lambda: end.events_of("cleared"))
