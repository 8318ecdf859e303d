"""The expert of every task succeeds, from any state."""

import numpy as np
import pytest

from smolvla_gym.tasks import TASKS
from tests.tasks.scenes import anywhere, run_expert


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(make, task):
    env = make(task)
    for seed in range(1000, 1005):
        env.reset(seed=seed)
        assert run_expert(env), seed


@pytest.mark.parametrize(("task", "options"), [
    ("lift", {"gripper": "pneumatic"}), ("stack", {"randomization": 2, "num_objects": 3}),
    ("place", {"control_hz": 10}), ("reach", {"control_hz": 100}), ("push", {"num_objects": 3}),
], ids=str)  # fmt: skip
def test_it_does_with_other_options_too(make, task, options):
    env = make(task, max_episode_steps=int(15 * options.get("control_hz", 30)), **options)
    for seed in (2000, 2001):
        env.reset(seed=seed)
        assert run_expert(env, limit=2000), seed


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_is_a_function_of_the_state(make, task):
    env, other = make(task), make(task)
    env.reset(seed=3)
    actions = []
    for step in range(60):
        action = env.unwrapped.expert_action()
        state = env.unwrapped.backend.world.data.qpos.copy()
        np.testing.assert_array_equal(env.unwrapped.expert_action(), action)
        np.testing.assert_array_equal(env.unwrapped.backend.world.data.qpos, state)
        assert env.action_space.contains(action)
        if step == 40:  # somebody who only came to this state, and never asked the expert before, is told the same
            other.reset(seed=3)
            for past in actions:
                other.step(past)
            np.testing.assert_array_equal(other.unwrapped.expert_action(), action)
        actions.append(action)
        env.step(action)


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_recovers_from_where_a_policy_strayed_to(make, task):
    env = make(task, max_episode_steps=900)
    rng = np.random.default_rng(5)
    for seed in (30, 31):
        env.reset(seed=seed)
        for _ in range(3):  # three wild excursions above the table
            wild = np.append(anywhere(rng), rng.random()).astype(np.float32)
            for _ in range(20):
                env.step(wild)
        assert run_expert(env, limit=840), seed


@pytest.mark.parametrize("task", TASKS)
def test_the_expert_begins_anywhere(make, task):
    env = make(task)
    rng = np.random.default_rng(6)
    for seed in (40, 41):
        env.reset(seed=seed, options={"joints": anywhere(rng), "opening": rng.random()})
        assert run_expert(env), seed
