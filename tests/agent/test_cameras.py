"""Cameras that were not used in training are left out, as in LeRobot; another camera's image never replaces them."""

import json

import gymnasium as gym
import numpy as np
import pytest

from smolvla_gym.agent.cameras import PAROL6_CAMERAS, map_cameras
from smolvla_gym.agent.input_validation import check_training_conditions
from smolvla_gym.agent.policies.base import ChunkRequest, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.cli.main import main
from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.doctor.policy import check_policy
from smolvla_gym.errors import PolicyMismatchError
from smolvla_gym.sim.scene import CAMERAS

pytest.importorskip("lerobot")

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.policies.local import LocalPolicy

USUAL = {"wrist": "wrist", "scene": "scene", "camera3": "camera3"}


def add_camera(checkpoint, empty_cameras):
    """Lists a third camera, as in a checkpoint that began as one of three cameras."""
    path = checkpoint / "config.json"
    content = json.loads(path.read_text())
    content["input_features"]["observation.images.camera3"] = {"type": "VISUAL", "shape": [3, 64, 64]}
    content["empty_cameras"] = empty_cameras
    path.write_text(json.dumps(content))
    return load_checkpoint(checkpoint, device="cpu")


def infer(policy, observation, **changes):
    noise = np.random.default_rng(0).standard_normal((policy.card.chunk_size, policy.card.noise_width), np.float32)
    return policy.infer(ChunkRequest(observation, "Pick up the red cube.", noise, **changes)).actions


@pytest.mark.parametrize("sampler", ["fast", "reference"])
def test_a_chunk_without_it_is_that_of_training(loaded, copy, observation, sampler):
    trained = infer(LocalPolicy(loaded, sampler=sampler), observation)
    checkpoint = add_camera(copy, 0)
    strict = LocalPolicy(checkpoint, sampler=sampler)
    with pytest.raises(PolicyMismatchError, match=r"camera_map=\{'camera3': None\} \(--camera-map camera3=none\)"):
        infer(strict, observation)
    np.testing.assert_allclose(infer(strict, observation, absent=frozenset(["camera3"])), trained, atol=1e-5)
    told = LocalPolicy(checkpoint, sampler=sampler, camera_map={"camera3": None})
    assert (told.card.env_cameras, told.card.absent_cameras) == (("wrist", "scene"), ("camera3",))
    np.testing.assert_allclose(infer(told, observation), trained, atol=1e-5)
    # Another camera's image in its place is another chunk.
    shown = LocalPolicy(checkpoint, sampler=sampler, camera_map={"camera3": "wrist"})
    assert np.abs(infer(shown, observation) - trained).max() > 1e-3


def test_a_checkpoint_can_allow_it(loaded, copy, observation):
    trained = infer(LocalPolicy(loaded), observation)
    agent = SmolVLAAgent(LocalPolicy(add_camera(copy, 1)))
    assert agent.cameras == ("wrist", "scene")
    with gym.make("PAROL6Sim-v0", **agent.env_options) as env, pytest.warns(UserWarning, match="camera3"):
        agent.attach(env)
    np.testing.assert_allclose(infer(agent.policy, observation), trained, atol=1e-5)
    assert [finding.remedy for finding in check_policy(str(copy)) if finding.remedy] == []


def test_doctor_advises_to_leave_it_out(copy):
    add_camera(copy, 0)
    (remedy,) = [finding.remedy for finding in check_policy(str(copy)) if finding.remedy]
    assert "camera_map={'camera3': None}" in remedy
    assert "'wrist'" not in remedy


@pytest.mark.parametrize(
    ("camera_map", "word"),
    [
        (dict.fromkeys(USUAL), "leaves out all"),
        ({"camera4": None}, "camera4"),
        ({"camera3": 3}, "camera3"),
        ({"camera3": ""}, "camera3"),
    ],
)
def test_invalid_camera_maps_are_refused(camera_map, word):
    with pytest.raises(PolicyMismatchError, match=word):
        map_cameras("policy", USUAL, camera_map)


def test_a_map_may_rename_and_leave_out():
    assert map_cameras("policy", USUAL, {"camera3": None, "scene": "top"}) == {"wrist": "wrist", "scene": "top"}


@pytest.mark.parametrize("text", ["camera3=", "camera3=none", "camera3=None"])
def test_the_command_line_leaves_out(text):
    assert agent_options._pair(text) == ("camera3", None)
    assert agent_options._pair("camera1=wrist") == ("camera1", "wrist")


def test_rollout_leaves_out(copy, tmp_path):
    add_camera(copy, 0)
    command = ["rollout", "--policy", str(copy), "--camera-map", "camera3=none", "--max-steps", "2", "--no-video"]
    assert main([*command, "--episodes", "1", "--device", "cpu", "--out", str(tmp_path / "out")]) == 0


def test_the_cameras_are_those_of_the_envs():
    assert tuple(CAMERAS) == PAROL6_CAMERAS


# Control rate and gripper.

CARD = PolicyCard("policy", {"wrist": (16, 16)}, {"wrist": "wrist"}, 16, 8, 5, 32, "cpu", 0, (), 30.0, "ssg48")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"render_fps": 10, "gripper": "ssg48"}, "30 Hz.*10 Hz.*control_hz=30"),
        ({"render_fps": 30, "gripper": "pneumatic"}, "'ssg48'.*'pneumatic'.*gripper='ssg48'"),
        ({"render_fps": 60, "gripper": "pneumatic"}, "60 Hz.*'pneumatic'.*control_hz=30, gripper='ssg48'"),
    ],
)
def test_another_rate_or_gripper_than_in_training_is_refused(metadata, words):
    with pytest.raises(PolicyMismatchError, match=words):
        check_training_conditions(CARD, metadata)
    with pytest.warns(UserWarning, match="trained"):
        assert check_training_conditions(CARD, metadata, allow_mismatch=True) == metadata["render_fps"]


@pytest.mark.parametrize("metadata", [{"render_fps": 30}, {"render_fps": 29.97, "gripper": "ssg48"}])
def test_the_same_rate_fits(metadata):
    assert check_training_conditions(CARD, metadata) == metadata["render_fps"]


@pytest.mark.parametrize("rate", [None, 0, -1, float("nan"), float("inf"), "30", True])
def test_an_env_without_a_rate_is_refused(rate):
    with pytest.raises(PolicyMismatchError, match="render_fps"):
        check_training_conditions(CARD, {"render_fps": rate})


def test_attaching_checks_it(loaded, copy):
    (copy / "parol6.json").write_text('{"control_hz": 15, "gripper": "pneumatic"}')
    policy = LocalPolicy(load_checkpoint(copy, device="cpu"))
    agent = SmolVLAAgent(policy)
    assert agent.env_options["control_hz"] == 15
    with gym.make("PAROL6Sim-v0", cameras=agent.cameras) as env:
        with pytest.raises(PolicyMismatchError, match=r"15 Hz.*30 Hz.*'pneumatic'.*'ssg48'"):
            agent.attach(env)
        with pytest.warns(UserWarning, match="15 Hz"):
            SmolVLAAgent(policy, allow_mismatch=True).attach(env)
    with gym.make("PAROL6Sim-v0", **agent.env_options) as env:
        agent.attach(env)


def test_a_policy_whose_training_is_unknown_drives_any_env(loaded):
    agent = SmolVLAAgent(LocalPolicy(loaded))
    assert "control_hz" not in agent.env_options
    with gym.make("PAROL6Sim-v0", cameras=agent.cameras, control_hz=10, gripper="pneumatic") as env:
        agent.attach(env)
