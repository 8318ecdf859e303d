"""Trials of a policy during its training."""

import json
import sys
import time
from dataclasses import replace

import pytest

pytest.importorskip("lerobot.datasets")

from smolvla_gym.cli.main import _parser
from smolvla_gym.data.reader import open_recording
from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.training.trials import TrialOptions, run_trial, trial_command
from tests.training.datasets import make_dataset


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return open_recording(make_dataset(tmp_path_factory.mktemp("recorded") / "data", fps=15))


def parsed(recording, options, tmp_path):
    command = trial_command(tmp_path / "policy", recording, options, tmp_path / "out")
    assert command[:3] == [sys.executable, "-m", "smolvla_gym"]
    return _parser().parse_args(command[3:])


@pytest.mark.parametrize(("device", "workers"), [("cuda", {1}), ("mps", {1}), ("cpu", {1, 2})])
def test_a_trial_uses_the_device_of_the_training(recording, tmp_path, device, workers):
    arguments = parsed(recording, TrialOptions(("lift", "reach"), 2, 5, device), tmp_path)
    assert arguments.device == device
    assert arguments.workers in workers
    assert (arguments.task, arguments.episodes, arguments.seed) == (["lift", "reach"], 2, 5)


def test_the_scenes_are_as_they_were_recorded(recording, tmp_path):
    options = TrialOptions(("lift",), 2)
    unknown = parsed(replace(recording, gripper=None), options, tmp_path)
    default = _parser().parse_args(["eval"])
    assert (unknown.num_objects, unknown.randomization) == (default.num_objects, default.randomization)
    known = replace(recording, num_objects=4, randomization=0, gripper="pneumatic")
    arguments = parsed(known, options, tmp_path)
    assert (arguments.num_objects, arguments.randomization, arguments.gripper) == (4, 0, "pneumatic")
    assert arguments.control_hz == 15


def test_a_trial_that_hangs_is_stopped():
    began = time.monotonic()
    with pytest.raises(SmolVLAGymError, match="did not end within 1 s"):
        run_trial([sys.executable, "-c", "import time; time.sleep(100)"], timeout_s=1)
    assert time.monotonic() - began < 20


def test_the_output_of_a_trial_is_returned():
    script = f"print({json.dumps({'conditions': [{'task': 'lift'}]})!r})"
    assert run_trial([sys.executable, "-c", script], timeout_s=60) == [{"task": "lift"}]
    with pytest.raises(SmolVLAGymError, match="no such policy"):
        run_trial([sys.executable, "-c", "import sys; print('a page'); sys.exit('no such policy')"], timeout_s=60)


def test_the_timeout_grows_with_the_episodes():
    assert TrialOptions(("lift", "reach"), 50).timeout_s > 5 * TrialOptions(("lift",), 10).timeout_s
