"""The bundled checkpoint: LeRobot loads it, it is self-contained, and it succeeds at its tasks."""

import json
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import example, given, settings

import smolvla_gym
from smolvla_gym.agent import SmolVLAAgent, bundled_checkpoint
from smolvla_gym.errors import PolicyMismatchError, SmolVLAGymError
from tests.agent.test_input_validation import INSTRUCTIONS, OBSERVATIONS, images


@pytest.fixture(scope="module")
def agent():
    return SmolVLAAgent.from_pretrained("bundled", device="cpu")


def test_it_is_small_and_names_no_machine():
    folder = bundled_checkpoint()
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8e6
    for file in files:
        if file.suffix == ".json":
            values = json.loads(file.read_text())
            assert "/" not in str(values.get("vlm_model_name", "")), file
    assert (folder / "README.md").read_text().startswith("---\n")  # the hub's metadata


def test_a_folder_of_its_name_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path / "bundled").mkdir()
    monkeypatch.chdir(tmp_path)
    assert SmolVLAAgent.from_pretrained("bundled", device="cpu").cameras == ("wrist", "scene")


def test_lerobot_loads_it_as_it_is(agent):
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    policy = agent.policy.checkpoint.policy
    assert type(policy) is SmolVLAPolicy
    assert sum(parameter.numel() for parameter in policy.parameters()) < 3e6


def test_it_refuses_an_env_without_its_cameras(agent):
    with gym.make("PAROL6Sim-v0", cameras=("wrist",)) as env, pytest.raises(PolicyMismatchError, match="scene"):
        agent.check(env.observation_space, env.action_space)


@pytest.mark.parametrize("task", ["reach", "lift", "place", "stack", "push"])
def test_it_follows_instructions_among_three_objects(agent, task):
    options = {"cameras": agent.cameras, "image_size": (64, 64), "num_objects": 3, "reward": "sparse"}
    with gym.make("PAROL6Sim-v0", task=task, **options) as env:
        agent.check(env.observation_space, env.action_space)
        summary = smolvla_gym.rollout(env, agent, episodes=3, seed=503)
    # A grasp that is touch and go may turn where a processor rounds differently.
    assert sum(episode.success for episode in summary.episodes) >= 2


def test_the_same_seed_gives_the_same_episode(agent):
    paths = []
    with gym.make("PAROL6Sim-v0", task="lift", cameras=agent.cameras) as env:
        for _ in range(2):
            observation, info = env.reset(seed=3)
            agent.reset(info["instruction"], seed=3)
            path = []
            for _ in range(30):
                observation, *_ = env.step(agent.act(observation))
                path.append(observation["agent_pos"])
            paths.append(np.array(path))
    np.testing.assert_array_equal(*paths)


@settings(max_examples=25, deadline=None)
@given(OBSERVATIONS, INSTRUCTIONS)
@example(images(scene=np.zeros((16, 16, 3), np.uint8)), "Pick up the RED cube")
@example(images(scene=np.zeros((16, 16, 3), np.uint8)), "please " * 60)
def test_any_input_gives_finite_actions_or_an_error(agent, observation, instruction):
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agent.reset(instruction, seed=0)
            action = agent.act(observation)
    except SmolVLAGymError:
        assert time.monotonic() - began < 1.0
        assert agent.queue_length == 0
        return
    assert np.isfinite(action).all()
    assert np.isfinite(agent.plan).all()
