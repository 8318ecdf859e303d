"""A checkpoint that is being replaced stays whole."""

import pytest

pytest.importorskip("lerobot")

import torch

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.saving import save_checkpoint
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from tests.training.full_disk import full_disk
from tests.training.test_imitation import demonstrations


@pytest.fixture
def policy_dir(tmp_path):
    frames = demonstrations(4)
    stats = compute_stats(frames.states, frames.actions)
    return build_tiny_checkpoint(tmp_path / "policy", cameras=("wrist",), stats=stats, chunk_size=4, n_action_steps=2)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_an_error_while_saving_keeps_the_old_checkpoint(policy_dir):
    """A limit on the size of files stands for whatever ends the writing of the weights half-way."""
    loaded = load_checkpoint(policy_dir, device="cpu", language_head=True)
    before = contents(policy_dir)
    torch.nn.init.ones_(next(loaded.policy.parameters()))
    with full_disk(1_000_000), pytest.raises(Exception, match="File too large"):  # of safetensors' own kind
        save_checkpoint(policy_dir, loaded.policy, loaded.preprocessor, loaded.postprocessor)
    assert contents(policy_dir) == before


def test_files_of_a_killed_saving_are_removed(policy_dir):
    loaded = load_checkpoint(policy_dir, device="cpu", language_head=True)
    before = contents(policy_dir)
    (policy_dir / ".part" / "vlm").mkdir(parents=True)
    (policy_dir / ".part" / "half.json").write_text("{")
    save_checkpoint(policy_dir, loaded.policy, loaded.preprocessor, loaded.postprocessor)
    assert contents(policy_dir).keys() == before.keys()
    assert not (policy_dir / ".part").exists()
    load_checkpoint(policy_dir, device="cpu")
