"""LeRobot's own training accepts recorded datasets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint
from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.spec import DatasetSpec


@pytest.mark.slow
def test_two_steps_of_lerobot_train(tmp_path, make_episode):
    spec = DatasetSpec(30, ("wrist", "scene"), (32, 48), "ssg48")
    dataset = Dataset(tmp_path / "data", spec)
    for seed in range(2):
        one = make_episode(seed, frames=40)
        images = dict.fromkeys(spec.cameras, one.images["wrist"])
        dataset.add(Episode(one.instruction, seed, "expert", images, one.states, one.actions))
    command = [
        Path(sys.executable).with_name("lerobot-train"), "--policy.path=.", "--policy.push_to_hub=false",
        "--policy.device=cpu", "--dataset.repo_id=local/parol6", f"--dataset.root={dataset.root}",
        "--dataset.video_backend=pyav", "--batch_size=2", "--num_workers=0", "--steps=2", "--save_freq=2",
        "--wandb.enable=false", f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    # The policy names its tokenizer by a path relative to its own folder.
    done = subprocess.run(
        command, cwd=bundled_checkpoint(), capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dataset.num_frames=80" in done.stderr + done.stdout
    saved = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    config = json.loads((saved / "config.json").read_text())
    assert config["output_features"]["action"]["shape"] == [7]
    assert set(config["input_features"]) == {
        "observation.state", "observation.images.wrist", "observation.images.scene",
    }  # fmt: skip
