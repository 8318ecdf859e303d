"""The same seed gives the same episode, bit for bit, in any process and after any other episode."""

import subprocess
import sys

import numpy as np
import pytest

from tests.envs.episodes import bits, episode, fingerprint

FULL = {"image_size": (64, 64), "cameras": ("wrist", "scene"), "depth": True, "randomization": 2}


@pytest.mark.parametrize("options", [{"task": "stack"}, {"task": "push", "gripper": "pneumatic", "num_objects": 3}])
def test_two_envs_agree_over_a_whole_episode(make, options):
    one, other = (make(**FULL, max_episode_steps=150, **options) for _ in range(2))
    first = episode(one, seed=11, steps=450)
    assert len(first) == 2 + 7 * 150
    assert episode(other, seed=11, steps=450) == first


def test_an_experts_episode_too_with_another_env_in_between(make):
    one, other = make(**FULL, task="lift"), make(**FULL, task="lift")
    first = episode(one, seed=2, steps=300, expert=True)
    assert first[-3] is True  # is_success: the cube was lifted
    stranger = make(task="place", image_size=(48, 48), randomization=2)
    observation, _ = other.reset(seed=2)
    shown = [bits(observation), first[1]]
    stranger.reset(seed=9)
    while True:
        observation, reward, terminated, truncated, info = other.step(other.unwrapped.expert_action())
        stranger.step(stranger.action_space.sample())
        shown += [bits(observation), reward, terminated, truncated, info["is_success"], info["safety"], info["shaping"]]
        if terminated or truncated:
            break
    assert shown == first


@pytest.mark.parametrize("policy", ["random", "expert"])
def test_another_process_agrees(make, policy):
    options = {**FULL, "task": "place"}
    here = fingerprint(episode(make(**options), seed=5, expert=policy == "expert"))
    command = [sys.executable, "-m", "tests.envs.episodes", repr(options), "5", policy]
    there = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize("randomization", [0, 1, 2])
def test_an_interrupted_episode_leaves_no_trace(make, randomization):
    options = {**FULL, "task": "stack", "randomization": randomization}
    fresh, used = make(**options), make(**options)
    for seed, steps in ((1, 17), (2, 3), (3, 0)):
        used.reset(seed=seed, options={"opening": 0.3})
        for _ in range(steps):
            used.step(used.action_space.sample())
    assert episode(used, seed=4, steps=30) == episode(fresh, seed=4, steps=30)


def test_seeds_differ_and_no_seed_goes_on(make):
    env = make(cameras=(), task="lift")
    first = env.reset(seed=1)[0], env.unwrapped.backend.layout
    again = env.reset()[0], env.unwrapped.backend.layout
    assert not np.array_equal(first[1].positions, again[1].positions)
    env.reset(seed=1)
    env.reset()
    np.testing.assert_array_equal(env.unwrapped.backend.layout.positions, again[1].positions)


def test_watching_changes_nothing(make):
    watched, alone = make(**FULL, render_mode="rgb_array"), make(**FULL)
    observations = []
    for env in (watched, alone):
        shown = [bits(env.reset(seed=8)[0])]
        rng = np.random.default_rng(0)
        for _ in range(10):
            picture = env.render() if env is watched else None
            assert picture is None or (picture.shape == (480, 640, 3) and picture.dtype == np.uint8)
            action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            shown.append(bits(env.step(action)[0]))
        observations.append(shown)
    assert observations[0] == observations[1]


def test_observations_are_the_callers_to_keep(make):
    env = make(**FULL)
    first, _ = env.reset(seed=0)
    kept = bits(first)
    for _ in range(3):
        observation, *_ = env.step(env.action_space.high)
    assert bits(first) == kept
    assert bits(observation) != kept
