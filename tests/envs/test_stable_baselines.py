"""Stable-Baselines3 checks the flat env and learns in it."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.envs import FlatObservation

sb3 = pytest.importorskip("stable_baselines3")

STATE = {"cameras": (), "privileged": True}
IMAGES = {"image_size": (36, 36), "cameras": ("wrist", "scene")}


def make_flat(**options):
    env = FlatObservation(gym.make(smolvla_gym.SIM_ID, task="reach", max_episode_s=0.5, **options))
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


@pytest.mark.parametrize("options", [STATE, IMAGES], ids=["state", "images"])
def test_its_checker_finds_nothing(options):
    from stable_baselines3.common.env_checker import check_env

    env = make_flat(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


def test_nested_observations_are_what_it_refuses():
    """The reason for the wrapper; where this fails, its policies have learned to take them."""
    env = gym.make(smolvla_gym.SIM_ID, **IMAGES)
    with pytest.raises(NotImplementedError, match=r"[Nn]ested"):
        sb3.PPO("MultiInputPolicy", env)
    env.close()


@pytest.mark.parametrize("options", [STATE, IMAGES], ids=["state", "images"])
@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_it_learns(algorithm, options):
    env = make_flat(**options)
    few = {"n_steps": 64, "n_epochs": 1} if algorithm == "PPO" else {"learning_starts": 60, "buffer_size": 100}
    few |= {"batch_size": 16, "train_freq": 16} if algorithm == "SAC" else {"batch_size": 32}
    model = getattr(sb3, algorithm)("MultiInputPolicy", env, device="cpu", seed=0, **few)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(256 if options is STATE else 128)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    if options is IMAGES:  # channels first is what its networks of images take
        assert model.observation_space["pixels_wrist"].shape == (3, 36, 36)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(action)
    env.close()
