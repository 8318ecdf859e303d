"""``info["safety"]`` has interventions alone, ``info["shaping"]`` what the limits do in each normal episode."""

from __future__ import annotations

import sys

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.agent.scripted import ExpertAgent
from smolvla_gym.envs import ToolAction
from smolvla_gym.episodes.rollout import rollout
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_UPPER, STANDBY
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.safety import Intervention
from tests.envs.twin_rig import TARGET, Tap, drive, make_twin

BACKENDS = ["sim", pytest.param("twin", marks=pytest.mark.skipif(sys.platform == "win32", reason="needs a pty"))]
twin_only = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


def make(backend, **options):
    return gym.make(smolvla_gym.SIM_ID, cameras=(), **options) if backend == "sim" else make_twin(**options)


def down(height):
    return np.append(solve((0.22, 0.0, height), np.pi / 2, GRIPPERS["ssg48"]), 1.0)


def interventions(env, action, steps):
    """Interventions of some steps with one action, by rule and place."""
    found: dict[tuple[str, str], Intervention] = {}
    for _ in range(steps):
        *_, truncated, info = env.step(np.asarray(action, np.float32))
        for each in info["safety"]:
            assert each.keys() == {"rule", "where", "why"}
            assert all(isinstance(text, str) and text for text in each.values())
            found[each["rule"], each["where"]] = each
        if truncated:
            break
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_normal_episode_has_shaping_and_no_intervention(backend):
    with make(backend, task="lift") as env:
        (episode,) = rollout(env, ExpertAgent(), seed=3).episodes
    assert episode.success
    assert episode.safety == {}
    assert episode.shaping["speed"] > 0
    assert episode.shaping["acceleration"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clamped_target_is_an_intervention_at_its_joint(backend):
    with make(backend) as env:
        env.reset(seed=0, options={"joints": HOME})
        found = interventions(env, [9.0, *HOME[1:], 1.0], 2)
    assert found.keys() == {("position", "joint_1")}
    assert f"{JOINT_UPPER[0]:.4g}" in found["position", "joint_1"]["why"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_before_a_collision_is_an_intervention_of_the_pair(backend):
    with make(backend) as env:
        env.reset(seed=0, options={"joints": down(0.05)[:6]})
        found = interventions(env, down(-0.05), 40)
    assert {rule for rule, _ in found} == {"collision"}
    assert {where for _, where in found} <= {"the table and the jaw_left", "the table and the jaw_right"}


@twin_only
def test_a_stop_at_the_border_of_the_workspace_is_an_intervention():
    with make_twin(workspace=((-0.5, -0.5, 0.0), (0.25, 0.5, 0.75))) as env:
        env.reset(seed=0, options={"joints": HOME})
        found = interventions(env, [*STANDBY, 1.0], 40)
    assert found.keys() == {("workspace", "the tool and the border of the workspace in x")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tool_pose_out_of_reach_is_an_intervention_with_that_pose(backend):
    with ToolAction(make(backend)) as env:
        env.reset(seed=0)
        ((rule, where),) = interventions(env, [0.5, 0.5, 0.6, 0.0, 1.0], 1)
    assert rule == "reach"
    assert "0.500" in where


@twin_only
def test_the_watchdog_is_an_intervention():
    with make_twin() as env:
        env.reset(seed=0, options={"joints": HOME})
        drive(env, 0.3)
        Tap(env).wait(0.5)
        found = interventions(env, TARGET, 1)
    assert "watchdog" in {rule for rule, _ in found}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fault_is_one_intervention(backend):
    with make(backend) as env:
        env.reset(seed=0, options={"joints": HOME})
        drive(env, 0.2)
        env.unwrapped.stop()
        info = drive(env, 0.2)
    assert info["fault"] == "operator_stop"
    (fault,) = info["safety"]
    assert (fault["rule"], fault["where"]) == ("fault", "arm")
    assert "operator_stop" in fault["why"]
