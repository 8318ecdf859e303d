"""The rate and the gripper that a checkpoint was trained with."""

import pytest

pytest.importorskip("lerobot")

from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.checkpoint import bundled_checkpoint
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.imitation import TrainOptions, train
from smolvla_gym.training.provenance import Provenance, read_provenance, write_provenance
from smolvla_gym.training.stats import compute_stats
from smolvla_gym.training.tiny import build_tiny_checkpoint
from tests.training.test_imitation import demonstrations


def test_the_bundled_policy_says_its_own():
    assert read_provenance(bundled_checkpoint()) == Provenance(30, "ssg48")


def test_training_hands_it_on_and_the_agent_does_not_mind(tmp_path):
    frames = demonstrations(8)
    stats = compute_stats(frames.states, frames.actions)
    build_tiny_checkpoint(tmp_path / "start", cameras=("wrist",), stats=stats, chunk_size=4, n_action_steps=2)
    options = TrainOptions(steps=1, batch_size=2, threads=1)
    train(tmp_path / "start", frames, tmp_path / "unknown", options)
    assert read_provenance(tmp_path / "unknown") is None
    write_provenance(tmp_path / "start", Provenance(15))
    train(tmp_path / "start", frames, tmp_path / "policy", options)
    assert read_provenance(tmp_path / "policy") == Provenance(15, None)
    assert SmolVLAAgent.from_pretrained(tmp_path / "policy", device="cpu").chunk_size == 4


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"control_hz": 0}', '{"control_hz": 30, "gripper": 1}'])
def test_a_broken_file_is_said(tmp_path, text):
    (tmp_path / "parol6.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"parol6\.json is broken .* Take another copy"):
        read_provenance(tmp_path)
