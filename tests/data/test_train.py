"""``smolvla-gym train`` as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot.datasets")
pytest.importorskip("accelerate")

import torch
from safetensors.torch import load_file

from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.cli.main import main
from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.spec import DatasetSpec
from tests.training.other_arm import build_other_arm


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_episode):
    spec = DatasetSpec(30, ("wrist", "scene"), (64, 64), "ssg48")
    dataset = Dataset(tmp_path_factory.mktemp("dataset") / "data", spec)
    rng = np.random.default_rng(0)
    for seed in (7, 8):
        one = make_episode(seed, frames=20)
        images = {camera: [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(20)] for camera in spec.cameras}
        dataset.add(Episode("lift the red cube", seed, "expert", images, one.states, one.actions))
    return dataset.root


def observation(size=64):
    pixels = {camera: np.zeros((size, size, 3), np.uint8) for camera in ("wrist", "scene")}
    return {"pixels": pixels, "agent_pos": np.zeros(7, np.float32)}


def acts(policy):
    agent = SmolVLAAgent.from_pretrained(policy, device="cpu")
    agent.reset("lift the red cube", seed=0)
    action = agent.act(observation())
    assert action.shape == (7,)
    return agent


@pytest.mark.slow
def test_the_tiny_policy_from_nothing(root, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "--dataset", str(root), "--out", str(out), "--batch-size", "4", "--device", "cpu",
               "--save-steps", "4", "--task", "reach", "--eval-episodes", "1"]  # fmt: skip
    assert main([*command, "--steps", "4"]) == 0
    printed = capsys.readouterr()
    assert f"Policy: {out / 'policy'}" in printed.out
    assert "2 episodes, 40 frames at 30 Hz, cameras wrist, scene, 1 sentences" in printed.err
    assert acts(out / "policy").chunk_size == 32
    rows = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("task") == "reach"] == [4]
    assert (out / "training.png").stat().st_size > 5000

    # Nothing is overwritten; more steps go on from where it was.
    assert main([*command, "--steps", "4"]) == 2
    assert "--resume to go on" in capsys.readouterr().err
    assert main([*command, "--steps", "6", "--resume", "--seed", "3"]) == 2
    assert "--seed 3: expected 0, as when" in capsys.readouterr().err
    # What it was begun with need not be said again.
    again = ["train", "--dataset", str(root), "--out", str(out), "--resume", "--steps", "6", "--eval-episodes", "0"]
    assert main(again) == 0
    rows = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 6 or "task" in rows[-1]


@pytest.mark.slow
def test_a_frozen_vision_tower_does_not_change(root, tmp_path):
    out = tmp_path / "run"
    command = ["train", "--dataset", str(root), "--out", str(out), "--from", "bundled", "--freeze-vision", "--steps",
               "2", "--batch-size", "4", "--device", "cpu", "--eval-episodes", "0"]  # fmt: skip
    assert main(command) == 0
    before, after = (load_file(out / name / "model.safetensors") for name in ("start", "policy"))
    changed = {name for name, weights in after.items() if not torch.equal(weights.float(), before[name].float())}
    assert changed
    assert not [name for name in changed if "vision_model" in name or "connector" in name]


@pytest.mark.slow
def test_lerobot_trains_a_policy_of_another_arm(root, tmp_path, capsys):
    base = build_other_arm(tmp_path / "base", ("lift the red cube",))
    out = tmp_path / "run"
    command = ["train", "--dataset", str(root), "--from", str(base), "--trainer", "lerobot", "--out", str(out),
               "--batch-size", "2", "--workers", "0", "--device", "cpu", "--save-steps", "2", "--eval-episodes", "0",
               "--learning-rate", "0.01"]  # fmt: skip
    assert main([*command, "--steps", "2"]) == 0, capsys.readouterr().err
    policy = out / "policy"
    config = json.loads((policy / "config.json").read_text())
    assert config["output_features"]["action"]["shape"] == [7]
    assert list(config["input_features"]) == [
        "observation.state",
        "observation.images.wrist",
        "observation.images.scene",
    ]
    assert config["optimizer_lr"] == 0.01
    assert str(tmp_path) not in (policy / "config.json").read_text() + (policy / "policy_preprocessor.json").read_text()
    moved = policy.rename(tmp_path / "moved")
    acts(moved)
    rows = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["loss"] > 0 for row in rows)

    again = ["train", "--dataset", str(root), "--out", str(out), "--resume", "--steps", "3", "--eval-episodes", "0",
             "--workers", "0", "--device", "cpu", "--save-steps", "2"]  # fmt: skip
    assert main([*again, "--from", "tiny"]) == 2
    assert "--from tiny: expected" in capsys.readouterr().err
    assert main(again) == 0, capsys.readouterr().err
    assert Path(out, "lerobot", "checkpoints", "last").resolve().name.lstrip("0") == "3"
    assert json.loads((out / "training.jsonl").read_text().splitlines()[-1])["step"] == 3
    assert (out / "policy" / "model.safetensors").read_bytes() != (moved / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "no/such/folder"], "no folder"),
        (["--from", ""], "expected a text that is not empty"),
        (["--out", ""], "expected the name of a file or folder"),
        (["--cameras", "front"], "front"),
        (["--task", "lfit"], "Did you mean 'lift'"),
        (["--eval-seed", "5"], "--eval-seed 5: expected"),
        (["--device", "tpu"], "--device tpu: this machine has"),
        (["--resume"], "the folder of a run"),
        (["--freeze-vision", "--from", "bundled", "--trainer", "lerobot"], "only in memory"),
        (["--freeze-vision"], "--freeze-vision: only with --from"),
        (["--trainer", "lerobot"], "a checkpoint"),
        (["--dataset", "nowhere"], "no LeRobot dataset"),
    ],
)
def test_wrong_options_are_refused_before_training(root, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dataset", str(root), "--steps", "2", *arguments]) != 0
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("outputs/train/*"))
