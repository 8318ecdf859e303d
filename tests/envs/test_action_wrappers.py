"""Changes of joints add up; steps of the tool stay on their branch of the inverse kinematics."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction
from hypothesis import given, settings
from hypothesis import strategies as st

import smolvla_gym
from smolvla_gym.envs import DeltaJointAction, ToolAction
from smolvla_gym.errors import ActionError, OptionError
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, JOINT_UPPER, STANDBY, forward_kinematics
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.world import start_pose

SSG48 = GRIPPERS["ssg48"]
START = start_pose(SSG48)


def sim(**options):
    return gym.make(smolvla_gym.SIM_ID, cameras=(), max_episode_steps=-1, **options)


@pytest.fixture
def delta():
    with DeltaJointAction(sim()) as env:
        yield env


@pytest.fixture(scope="module")
def tool():
    with ToolAction(sim()) as env:
        yield env


def change(*shares, opening=1.0):
    return np.array([*shares, *[0.0] * (6 - len(shares)), opening], np.float32)


def rules(info):
    """Rules of the interventions of a step, and limits that shaped it."""
    return {each["rule"] for each in info["safety"]} | set(info["shaping"])


def run(env, action, steps):
    seen = set()
    for _ in range(steps):
        observation, *_, info = env.step(action)
        seen |= rules(info)
    return observation["agent_pos"][:6].astype(float), seen


# -- what they wrap ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0.05", None, True, 0, 0.51, float("nan"), 10**400, [0.05]])
def test_a_change_that_is_no_number_in_its_range_is_refused(shared_delta, value):
    with pytest.raises(OptionError, match="max_delta"):
        DeltaJointAction(shared_delta.env, value)


@pytest.mark.parametrize("outer", [DeltaJointAction, ToolAction])
@pytest.mark.parametrize("inner", [DeltaJointAction, ToolAction, lambda env: RescaleAction(env, -1.0, 1.0)])
def test_actions_that_another_wrapper_would_misread_are_refused(shared_delta, outer, inner):
    with pytest.raises(OptionError, match="absolute joint targets"):
        outer(inner(shared_delta.env))


# -- changes of joints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "steps"), [(0.2, 10), (0.1, 60), (1.0, 8), (-1.0, 8)])
@pytest.mark.parametrize("joint", [0, 1, 5])
def test_changes_add_up_while_the_arm_lags(delta, joint, share, steps):
    begin, _ = delta.reset(seed=0, options={"joints": STANDBY})
    run(delta, change(*[0.0] * joint, share), steps)
    end, seen = run(delta, change(), 60)
    assert end[joint] - begin["agent_pos"][joint] == pytest.approx(0.05 * share * steps, abs=2e-3)
    assert "lead" not in seen


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6), min_size=1, max_size=12))
def test_any_changes_add_up(shared_delta, changes):
    begin, _ = shared_delta.reset(seed=0, options={"joints": STANDBY})
    for shares in changes:
        shared_delta.step(change(*shares))
    end, _ = run(shared_delta, change(), 30)
    np.testing.assert_allclose(end - begin["agent_pos"][:6], 0.02 * np.sum(changes, axis=0), atol=3e-3)


@pytest.fixture(scope="module")
def shared_delta():
    with DeltaJointAction(sim(), max_delta=0.02) as env:
        yield env


def test_targets_do_not_run_away_from_an_arm_that_cannot_keep_up(delta):
    delta.reset(seed=0)
    backend = delta.unwrapped.backend
    _, seen = run(delta, change(0.0, 0.0, 0.0, 0.0, 0.0, 1.0), 15)
    assert "lead" not in seen
    delta.reset(seed=0)
    _, seen = run(delta, change(1.0), 50)
    assert "lead" in seen
    let_go = backend.commanded[0]
    end, _ = run(delta, change(), 60)
    assert end[0] - let_go <= 0.5 + 1e-3
    back, _ = run(delta, change(-0.2), 10)  # what was cut off is not to be unwound first
    assert back[0] < end[0]


def test_at_a_limit_nothing_winds_up_and_it_is_reported(delta):
    delta.reset(seed=0, options={"joints": JOINT_UPPER - [0.02, 1.5, 1.5, 1.5, 1.5, 1.5]})
    _, seen = run(delta, change(0.2), 40)
    assert "position" in seen
    back, _ = run(delta, change(-0.2), 1)
    back, _ = run(delta, change(), 20)
    assert back[0] == pytest.approx(JOINT_UPPER[0] - 0.01, abs=1e-3)


def test_changes_against_an_obstacle_do_not_wind_up(delta):
    down = solve((0.22, 0.0, 0.03), np.pi / 2, SSG48)
    delta.reset(seed=0, options={"joints": down})
    end, seen = run(delta, change(0.0, 0.3), 60)
    assert "collision" in seen
    back, _ = run(delta, change(0.0, -0.3), 5)
    back, _ = run(delta, change(), 20)
    assert end[1] - back[1] > 0.04


def test_a_reset_and_a_stop_begin_anew(delta):
    run_of = change(1.0)
    delta.reset(seed=0)
    run(delta, run_of, 10)
    delta.reset(seed=0)
    end, _ = run(delta, change(), 20)
    np.testing.assert_allclose(end, START, atol=1e-3)
    run(delta, run_of, 10)
    delta.unwrapped.stop()
    *_, truncated, _ = delta.step(run_of)
    assert truncated
    delta.unwrapped.clear_fault()
    here, _ = run(delta, change(), 1)
    there, _ = run(delta, change(), 30)
    np.testing.assert_allclose(there, here, atol=0.1)


def test_a_refused_reset_leaves_the_targets(delta):
    delta.reset(seed=0)
    run(delta, change(1.0), 6)
    with pytest.raises(OptionError):
        delta.reset(options={"opening": 3})
    with pytest.raises(ActionError):
        delta.step(np.full(7, np.nan, np.float32))
    end, _ = run(delta, change(), 40)
    assert end[0] - START[0] == pytest.approx(0.3, abs=2e-3)


def test_asking_for_the_action_moves_no_target(delta):
    delta.reset(seed=0)
    first, second = (delta.action(change(1.0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


# -- poses of the tool -------------------------------------------------------------------------------------------------


def at(x, y, z, yaw=np.pi / 2, opening=0.0):
    return np.array([x, y, z, (yaw + np.pi) % (2 * np.pi) - np.pi, opening], np.float32)


def turned(env, sign, rate, steps, begin=np.pi / 2):
    """Turn the jaws one way; return J6 and the rules of each step."""
    j6, seen = [], []
    for k in range(1, steps + 1):
        observation, *_, info = env.step(at(0.2, 0.0, 0.17, begin + sign * rate * k))
        j6.append(float(observation["agent_pos"][5]))
        seen.append(rules(info))
    return np.array(j6), seen


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rate", [0.02, 0.06])
def test_the_wrist_holds_at_the_end_of_its_range(tool, sign, rate):
    tool.reset(seed=0)
    steps = round(4.6 / rate)  # half a turn takes 3.14 rad
    j6, seen = turned(tool, sign, rate, steps)
    way = sign * (j6 - np.pi)
    assert way.max() > 2.9
    assert (np.maximum.accumulate(way) - way).max() < 0.02
    assert "reach" in seen[-1]
    assert "reach" not in seen[0]
    # The way back is free at once where the request comes back.
    turned(tool, -sign, rate, steps, np.pi / 2 + sign * rate * steps)
    back, seen = turned(tool, sign, 0.0, 40)
    assert back[-1] == pytest.approx(np.pi, abs=0.02)
    assert "reach" not in seen[-1]


def test_another_yaw_is_gone_for_when_it_is_asked_for(tool):
    tool.reset(seed=0)
    turned(tool, 1, 0.03, 120)
    for _ in range(60):
        observation, *_, info = tool.step(at(0.2, 0.0, 0.17, np.pi / 2 - 1.2))
    assert "reach" not in rules(info)
    assert observation["agent_pos"][5] == pytest.approx(2 * np.pi - 1.2, abs=0.02)


def test_far_targets_are_gone_for_and_reached(tool):
    for spot in ((0.2, 0.2, 0.1), (0.2, -0.2, 0.1), (0.0, 0.25, 0.1), (0.0, -0.25, 0.1), (0.3, 0.0, 0.05)):
        for _ in range(110):
            observation, *_, info = tool.step(at(*spot))
        assert "reach" not in rules(info)
        pose = forward_kinematics(observation["agent_pos"][:6], SSG48)
        np.testing.assert_allclose(pose[:3, 3], spot, atol=2e-3)


def test_out_of_reach_the_arm_stops_on_its_way_and_goes_on_later(tool):
    tool.reset(seed=0)
    goal = at(0.2, 0.25, 0.1)
    for _ in range(8):
        tool.step(goal)
    for _ in range(20):
        held, *_, info = tool.step(at(0.5, 0.5, 0.6))
    assert "reach" in rules(info)
    still, *_ = tool.step(at(0.5, 0.5, 0.6))
    np.testing.assert_allclose(still["agent_pos"], held["agent_pos"], atol=2e-3)
    for _ in range(90):
        observation, *_, info = tool.step(goal)
    np.testing.assert_allclose(forward_kinematics(observation["agent_pos"][:6], SSG48)[:3, 3], goal[:3], atol=2e-3)


def test_from_any_start_the_tool_is_brought_down(tool):
    tool.reset(seed=0, options={"joints": HOME})
    for _ in range(120):
        observation, *_ = tool.step(at(0.2, 0.0, 0.17))
    np.testing.assert_allclose(observation["agent_pos"][:6], START, atol=2e-3)


def test_the_elbow_is_not_turned_over(tool):
    """The air gripper's fingers also point down with the elbow below, where the solution has it above."""
    below = np.array([-0.837, -0.222, 4.975, 0.0, -0.485, np.pi])
    below[4] = -0.4847
    pose = forward_kinematics(below, GRIPPERS["pneumatic"])
    assert np.abs(solve(pose[:3, 3], 0.0, GRIPPERS["pneumatic"]) - below).max() > 0.9
    with ToolAction(sim(gripper="pneumatic")) as env:
        begin, _ = env.reset(seed=0, options={"joints": below})
        for _ in range(20):
            observation, *_, info = env.step(at(*pose[:3, 3]))
            assert "reach" in rules(info)
        np.testing.assert_allclose(observation["agent_pos"][:6], begin["agent_pos"][:6], atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_step_moves_a_joint_by_more_than_the_tool_explains(tool, seed):
    rng = np.random.default_rng(seed)
    tool.reset(seed=0)
    backend, asked = tool.unwrapped.backend, np.array([0.2, 0.0, 0.17, np.pi / 2])
    for _ in range(60):
        asked = asked + rng.uniform(-1, 1, 4) * [0.01, 0.01, 0.005, 0.05]
        before = tool.targets
        tool.step(at(*asked))
        if before is not None and tool.targets is not None and np.abs(before - backend.commanded).max() < 0.5:
            assert np.abs(tool.targets - before).max() < 0.3 + 30 * 0.015 + 2 * 0.05
    low, high = JOINT_LOWER - 1e-3, JOINT_UPPER + 1e-3
    assert np.all((backend.commanded >= low) & (backend.commanded <= high))
