"""Checks before a training run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("lerobot")

import huggingface_hub

from smolvla_gym.agent.checkpoint.load import load_checkpoint
from smolvla_gym.agent.checkpoint.saving import find_vlm
from smolvla_gym.data.statistics import compute_stats
from smolvla_gym.errors import CheckpointError, OptionError
from smolvla_gym.training.preflight import check_run
from smolvla_gym.training.tiny.checkpoint import build_tiny_checkpoint
from smolvla_gym.training.tiny.imitation import TrainOptions, train
from tests.training.test_imitation import demonstrations

COMMIT = "a" * 40


@pytest.fixture
def without_vlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy as LeRobot saves it: its VLM is the repository acme/tinyvlm, which is in the hub's cache."""
    frames = demonstrations(4)
    stats = compute_stats(frames.states, frames.actions)
    policy = build_tiny_checkpoint(tmp_path / "policy", cameras=("wrist",), stats=stats, chunk_size=4, n_action_steps=2)
    repository = tmp_path / "hub" / "models--acme--tinyvlm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    shutil.move(policy / "vlm", repository / "snapshots" / COMMIT)
    (repository / "snapshots" / COMMIT / "model.safetensors").write_bytes(b"two gigabytes of them")
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps({**config, "vlm_model_name": "acme/tinyvlm"}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return policy


def test_a_policy_whose_vlm_is_on_the_hub_is_saved_with_its_files(without_vlm: Path, tmp_path: Path):
    snapshot = find_vlm("acme/tinyvlm")
    config = json.loads((without_vlm / "config.json").read_text())
    # transformers keeps a cache path of its own from when it was imported; the policy is loaded from the folder.
    (without_vlm / "config.json").write_text(json.dumps({**config, "vlm_model_name": str(snapshot)}))
    train(without_vlm, demonstrations(8, 64), tmp_path / "out", TrainOptions(steps=1, batch_size=2, threads=1))
    assert (tmp_path / "out" / "vlm" / "tokenizer.json").is_file()
    assert not (tmp_path / "out" / "vlm" / "model.safetensors").exists()
    load_checkpoint(tmp_path / "out", device="cpu")


def test_a_missing_vlm_is_refused(without_vlm: Path):
    with pytest.raises(CheckpointError, match="acme/absent"):
        find_vlm("acme/absent")


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    weights = tmp_path / "policy" / "model.safetensors"
    weights.parent.mkdir()
    with weights.open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free // 4)  # sparse: it takes no room itself
    for trainer in ("memory", "lerobot"):
        with pytest.raises(OptionError, match="GB free"):
            check_run(tmp_path / "run", weights.parent, trainer)
    check_run(tmp_path / "run", None, "memory")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OptionError, match="written"):
        check_run(tmp_path / "locked" / "run", None, "memory")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="written"):
        check_run(tmp_path / "file" / "run", None, "memory")
