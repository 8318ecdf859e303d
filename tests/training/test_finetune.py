"""Preparation and results of LeRobot's own training."""

import json

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.lerobot.finetune import FinetuneOptions, export, recover, train_command
from smolvla_gym.training.provenance import Provenance, read_provenance, write_provenance
from tests.training.datasets import make_dataset


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return open_recording(make_dataset(tmp_path_factory.mktemp("recorded") / "data"))


@pytest.fixture
def run(tmp_path):
    """A run that LeRobot saved at its fourth step."""
    pretrained = tmp_path / "run" / "lerobot" / "checkpoints" / "000004" / "pretrained_model"
    state = pretrained.with_name("training_state")
    pretrained.mkdir(parents=True)
    state.mkdir()
    (pretrained / "model.safetensors").write_bytes(b"weights of step 4")
    (pretrained / "config.json").write_text("{}")
    (state / "training_step.json").write_text('{"step": 4}')
    (pretrained.parents[1] / "last").symlink_to("000004")
    (tmp_path / "run" / "start").mkdir()
    return tmp_path / "run"


def test_several_gpus_use_accelerate(recording, tmp_path):
    launch = pytest.importorskip("accelerate.commands.launch")
    command = train_command(tmp_path, recording, FinetuneOptions(steps=9, batch_size=3, gpus=4), resume=False)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    given = launch.launch_command_parser().parse_args(command[3:])
    assert (given.multi_gpu, given.num_processes, given.module) == (True, 4, True)
    assert given.training_script == "lerobot.scripts.lerobot_train"
    assert {"--steps=9", "--batch_size=3"} < set(given.training_script_args)


def test_one_gpu_needs_no_launcher(recording, tmp_path):
    for resume in (False, True):
        command = train_command(tmp_path, recording, FinetuneOptions(steps=9), resume=resume)
        assert command[1:3] == ["-m", "lerobot.scripts.lerobot_train"]
        assert not any("accelerate" in part for part in command)


def test_a_policy_keeps_the_rate_of_its_start(run):
    write_provenance(run / "start", Provenance(15, "ssg48"))
    policy = export(run, run / "lerobot" / "checkpoints" / "last" / "pretrained_model")
    assert read_provenance(policy) == Provenance(15, "ssg48")


def test_the_last_checkpoint_of_a_killed_run_is_exported(run, tmp_path):
    assert recover(run) == 4
    assert (run / "policy" / "model.safetensors").read_bytes() == b"weights of step 4"
    assert json.loads((run / "policy" / "config.json").read_text()) == {}
    with pytest.raises(CheckpointError, match="no checkpoint"):
        recover(tmp_path / "other")
