"""Flat and privileged observations: their contents, and their use by learning libraries."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import smolvla_gym
from smolvla_gym.envs import FlatObservation
from smolvla_gym.errors import OptionError
from tests.envs.episodes import bits

BOTH = {"cameras": ("wrist", "scene"), "image_size": (36, 40), "depth": True, "privileged": True}

SHAPES = {
    "agent_pos": (7,), "pixels_wrist": (36, 40, 3), "pixels_scene": (36, 40, 3), "depth_wrist": (36, 40, 1),
    "depth_scene": (36, 40, 1), "privileged_object_position": (9,), "privileged_object_rotation": (12,),
    "privileged_object_velocity": (18,), "privileged_target": (3,), "privileged_base": (3,),
    "privileged_goal_position": (3,), "privileged_tool_position": (3,), "privileged_tool_rotation": (4,),
    "privileged_holding": (3,),
}  # fmt: skip


def test_keys_and_shapes(make):
    env = FlatObservation(make(num_objects=3, **BOTH))
    assert {name: space.shape for name, space in env.observation_space.items()} == SHAPES
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    nested, _ = make(num_objects=3, **BOTH).reset(seed=0)
    np.testing.assert_array_equal(observation["pixels_scene"], nested["pixels"]["scene"])
    table = nested["privileged"]["object_position"]
    np.testing.assert_array_equal(observation["privileged_object_position"].reshape(3, 3), table)
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])


@pytest.mark.parametrize("options", [{"cameras": (), "privileged": True}, {"image_size": (32, 32)}], ids=str)
def test_gymnasiums_checker_finds_nothing(options):
    env = FlatObservation(gym.make(smolvla_gym.SIM_ID, **options).unwrapped)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    said = [str(warning.message) for warning in caught]
    assert sum("different from the unwrapped version" in text for text in said) == 1  # it has a wrapper
    assert sum("symmetric and normalized" in text for text in said) == 1
    assert len(said) == 2
    env.close()


def test_vectors_and_specs(make):
    vector = gym.make_vec(smolvla_gym.SIM_ID, num_envs=2, wrappers=[FlatObservation], cameras=(), privileged=True)
    observation, _ = vector.reset(seed=0)
    assert observation["privileged_object_position"].shape == (2, 6)
    vector.close()
    env = FlatObservation(make(cameras=()))
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert bits(again.reset(seed=1)[0]) == bits(env.reset(seed=1)[0])
    with pytest.raises(OptionError, match="dictionary"):
        FlatObservation(gym.make("CartPole-v1"))


@pytest.mark.parametrize("task", ["lift", "place", "stack", "push", "reach"])
def test_ground_truth_is_that_of_the_scene(make, task):
    env = make(task=task, cameras=(), privileged=True, num_objects=3)
    observation, _ = env.reset(seed=5)
    bare = env.unwrapped.backend
    for _ in range(3):
        layout, truth = bare.layout, observation["privileged"]
        assert truth["target"].tolist() == [float(i == layout.target) for i in range(3)]
        assert truth["base"].tolist() == [float(i == layout.base) for i in range(3)]
        for i in range(3):
            np.testing.assert_allclose(truth["object_position"][i], bare.world.object_position(i), atol=1e-6)
            w, x, y, z = truth["object_rotation"][i]
            assert w >= 0
            first = bare.world.object_rotation(i)[:, 0]
            np.testing.assert_allclose(
                first, [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], atol=1e-5
            )
        np.testing.assert_allclose(truth["tool_position"], bare.world.tool_position, atol=1e-6)
        goal = layout.goal if layout.goal is not None else truth["object_position"][max(layout.base, -1)]
        if layout.goal is not None or layout.base >= 0:
            np.testing.assert_allclose(truth["goal_position"], goal, atol=1e-6)
        observation, *_ = env.step(env.unwrapped.expert_action())


def test_velocity_and_grasp_are_seen_when_a_cube_is_lifted(make):
    env = make(task="lift", cameras=(), privileged=True)
    observation, _ = env.reset(seed=0)
    target = env.unwrapped.backend.layout.target
    assert observation["privileged"]["holding"].tolist() == [0.0, 0.0]
    heights, rising = [], []
    done = False
    while not done:
        observation, _, done, _, _ = env.step(env.unwrapped.expert_action())
        heights.append(observation["privileged"]["object_position"][target][2])
        rising.append(observation["privileged"]["object_velocity"][target][2])
    assert observation["privileged"]["holding"][target] == 1.0
    fastest = int(np.argmax(rising))
    measured = (heights[fastest + 1] - heights[fastest - 1]) * 30 / 2
    assert rising[fastest] == pytest.approx(measured, rel=0.2)


def test_the_virtual_arm_knows_the_same(make):
    options = {"task": "reach", "cameras": (), "privileged": True, "randomization": 0}
    arm = {"port": "twin", "realtime": False, "log": None, "twin_options": {"homed": True}}
    twin = gym.make(smolvla_gym.REAL_ID, **options, **arm)
    sim = make(**options)
    assert twin.observation_space == sim.observation_space
    there, here = (env.reset(seed=4)[0]["privileged"] for env in (twin, sim))
    for name in ("object_position", "target", "goal_position"):
        np.testing.assert_allclose(there[name], here[name], atol=1e-6)
    np.testing.assert_allclose(there["tool_position"], here["tool_position"], atol=0.01)
    assert twin.observation_space.contains(twin.step(twin.action_space.sample())[0])
    twin.close()


def test_the_experts_action_follows_from_ground_truth_and_not_from_the_joints(make):
    """A nearest neighbour regression: what learning from state needs is in the observation."""
    env = make(task="reach", cameras=(), privileged=True, max_episode_steps=-1)
    plain, truth, actions = [], [], []
    for seed in range(260):
        observation, _ = env.reset(seed=seed)
        known = observation["privileged"]
        plain.append(observation["agent_pos"])
        target = known["object_position"][known["target"].argmax()]
        truth.append(np.concatenate([target, known["tool_position"]]))
        actions.append(env.unwrapped.expert_action()[:6])
    actions = np.array(actions)

    def error(inputs):
        """Of a polynomial of degree 2 that is fitted to 200 episodes, in the other 60; a share of the deviation."""
        x = np.array(inputs, np.float64)
        x = (x - x.mean(0)) / (x.std(0) + 1e-6)
        x = np.column_stack([np.ones(len(x)), x, *(x * x[:, [i]] for i in range(x.shape[1]))])
        weights = np.linalg.lstsq(x[:200], actions[:200], rcond=1e-8)[0]
        left = np.sqrt(((x[200:] @ weights - actions[200:]) ** 2).mean())
        return left / np.sqrt(((actions[200:] - actions[:200].mean(0)) ** 2).mean())

    assert error(truth) < 0.1
    assert error(plain) > 0.9
