"""A stop works at once, whatever the arm is doing, and an emergency stop latches."""

import threading
import time

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from tests.envs.twin_rig import QUICK, make_twin
from tests.integrations.bridge.memory import Arm, command


@pytest.fixture(scope="module")
def sim():
    arm = Arm()
    yield arm
    arm.env.close()


@pytest.fixture(scope="module")
def twin():
    """The bridge with a twin that runs by the clock; each test leaves it without a fault."""
    arm = Arm(lambda: make_twin(**QUICK, max_episode_steps=-1))
    yield arm
    arm.env.close()


def test_a_stop_does_not_open_the_gripper():
    """The gripper keeps its commanded opening, though the object that it holds keeps the jaws apart."""
    arm = Arm(
        lambda: gym.make(smolvla_gym.SIM_ID, cameras=(), task="lift", max_episode_steps=-1), lambda env: ExpertAgent()
    )
    arm.send("/start", {})
    arm.steps(1)
    assert arm.events("started")
    arm.until(lambda: arm.status["is_success"], 40.0)
    held = arm.status["opening"]
    assert held > 0.3
    arm.transport.sent.clear()
    arm.send("/stop", {})
    arm.steps(1)
    assert arm.events("stopped")
    arm.send("/joint_commands", command({"joint_1": float(arm.measured[0])}))
    arm.steps(30)
    assert arm.status["opening"] == pytest.approx(held, abs=0.02)
    assert arm.status["is_success"]  # it still is in the air
    arm.env.close()


def test_a_stop_outdoes_what_came_with_it(sim):
    sim.rest()
    begin = sim.measured
    sim.send("/stop", {})
    for _ in range(3):
        sim.send("/reset", {})
        sim.send("/joint_commands", command({"joint_1": 2.0}))
        sim.send("/stop", {})
        sim.steps(3)
    assert sim.events("stopped")
    assert not sim.events("reset", "ready")
    sim.steps(21)
    assert sim.measured[0] < begin[0] + 0.3


@pytest.mark.parametrize("backend", ["sim", pytest.param("twin", marks=[pytest.mark.realtime, pytest.mark.alone])])
def test_the_emergency_stop_latches(request, backend):
    arm = request.getfixturevalue(backend)
    arm.rest()
    begin = arm.measured
    for _ in range(12):
        arm.send("/joint_commands", command({"joint_1": begin[0] + 1.0}))
        arm.steps(1)
    arm.send("/estop", {"data": True})
    arm.until(lambda: arm.events("fault"), 1.0)
    assert arm.status["fault"] == "operator_stop"
    arm.transport.sent.clear()
    arm.send("/joint_commands", command({"joint_1": begin[0]}))
    arm.steps(1)
    assert "/clear_fault" in arm.events("refused")[0]["why"]
    if backend == "twin":
        time.sleep(0.8)  # it brakes
    held = arm.measured
    if backend == "twin":
        time.sleep(0.3)
    arm.steps(9)  # the clock of the simulation stands
    np.testing.assert_allclose(arm.measured, held, atol=2e-3)
    arm.send("/clear_fault", {})
    arm.steps(1)
    assert arm.events("cleared")
    for _ in range(30):
        arm.send("/joint_commands", command({"joint_1": held[0] + 0.3}))
        arm.steps(1)
    assert arm.measured[0] > held[0] + 0.05


@pytest.mark.alone
@pytest.mark.realtime
def test_a_stop_is_heard_while_the_arm_drives_by_itself(twin):
    twin.rest()
    start = twin.measured
    away = start[0] + 1.6 if start[0] < 0 else start[0] - 1.6
    for _ in range(150):
        twin.send("/joint_commands", command({"joint_1": away}))
        twin.steps(1)
        if abs(twin.measured[0] - away) < 0.05:
            break
    assert abs(twin.measured[0] - away) < 0.05
    press = threading.Timer(0.3, twin.send, ("/estop", {"data": True}))
    press.start()
    twin.send("/reset", {})  # it drives back, for more than a second
    twin.steps(1)
    press.join()
    assert twin.events("reset")
    assert twin.events("fault")
    assert twin.status["fault"] == "operator_stop"
    time.sleep(0.8)
    assert abs(twin.measured[0] - start[0]) > 0.4
    twin.transport.sent.clear()
    twin.send("/clear_fault", {})
    twin.steps(1)
    assert twin.events("cleared")
