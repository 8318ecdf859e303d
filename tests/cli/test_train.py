"""``smolvla-gym train``: what it refuses, and how a run goes on."""

import json
import shutil

import pytest

pytest.importorskip("lerobot.datasets")
pytest.importorskip("accelerate")

from smolvla_gym.cli.main import main
from tests.training.datasets import edit_json, make_dataset
from tests.training.full_disk import full_disk
from tests.training.other_arm import build_other_arm


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("recorded") / "data")


@pytest.fixture(scope="module")
def waving(tmp_path_factory):
    """Something that no task's sentence asks for, at another rate."""
    return make_dataset(tmp_path_factory.mktemp("waving") / "data", "wave", fps=15)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_other_arm(tmp_path_factory.mktemp("base") / "policy", ("lift the red cube",))


def train(root, out, *arguments):
    return main(["train", "--dataset", str(root), "--out", str(out), "--device", "cpu", *arguments])


def steps_of(out):
    return [json.loads(line)["step"] for line in (out / "training.jsonl").read_text().splitlines()]


SHORT = ("--batch-size", "2", "--eval-episodes", "0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "bundled", "--cameras", "scene"], "--cameras scene: expected wrist scene, as in bundled"),
        (["--from", "bundled", "--rtc-delay", "32"], "--rtc-delay 32: expected below 32, the number of actions"),
        (["--rtc-delay", "40"], "--rtc-delay 40: expected below 32, the number of actions in a chunk of tiny"),
        (["--gpus", "2"], "--gpus 2: only with --trainer lerobot"),
        (["--workers", "3"], "--workers 3: only with --trainer lerobot"),
        (["--from", "BASE", "--trainer", "lerobot", "--gpus", "2"], "--gpus 2: expected 1 with the device cpu"),
    ],
)
def test_what_the_trainer_would_ignore_is_refused(root, base, tmp_path, arguments, message, capsys):
    arguments = [str(base) if argument == "BASE" else argument for argument in arguments]
    assert train(root, tmp_path / "run", "--steps", "1", *SHORT, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trainer", ["memory", "lerobot"])
def test_a_policy_of_another_rate_is_refused(waving, tmp_path, trainer, capsys):
    assert train(waving, tmp_path / "run", "--steps", "1", *SHORT, "--from", "bundled", "--trainer", trainer) == 2
    said = capsys.readouterr().err
    assert "a policy of the dataset's 15 Hz, and this one was trained at 30 Hz. Record with --control-hz 30" in said
    assert not (tmp_path / "run").exists()


def test_half_a_copy_is_not_for_lerobots_trainer(root, base, tmp_path, capsys):
    half = shutil.copytree(root, tmp_path / "half")
    video = min((half / "videos").rglob("*.mp4"))
    video.unlink()
    arguments = ("--from", str(base), "--trainer", "lerobot", "--steps", "1", *SHORT)
    assert train(half, tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err
    assert "expected a whole dataset for LeRobot's own training; of this one are lost 1 episodes of 2: " in said
    assert f"{video.name} is missing" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_to_where_it_was_to_go(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(root, out, *SHORT, "--steps", "2", "--save-steps", "1") == 0
    assert steps_of(out)[-1] == 2  # also a short run has a curve
    capsys.readouterr()
    for arguments in ([], ["--steps", "1"]):
        assert train(root, out, "--resume", "--eval-episodes", "0", *arguments) == 2
        printed = capsys.readouterr()
        assert f"expected above 2, which {out / 'policy'} has already" in printed.err
        assert "Policy:" not in printed.out
    edit_json(out / "run.json", steps=3)  # as if it was begun with three and cut off after two
    assert train(root, out, "--resume", "--eval-episodes", "0") == 0
    assert train(root, out, "--resume", "--eval-episodes", "0", "--steps", "4") == 0
    assert steps_of(out)[-3:] == [2, 3, 4]
    kept = json.loads((out / "run.json").read_text())
    assert (kept["steps"], kept["save_steps"]) == (4, 1)


@pytest.mark.slow
def test_a_start_that_could_not_be_copied_is_not_begun_from(root, tmp_path, capsys):
    from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint

    policy, out = shutil.copytree(bundled_checkpoint(), tmp_path / "policy"), tmp_path / "run"
    arguments = ("--from", str(policy), *SHORT, "--steps", "1")
    with full_disk(20_000):
        assert train(root, out, *arguments) == 1
    assert not (out / "start").exists()
    assert train(root, out, "--resume", *arguments) == 0
    assert (out / "start" / "model.safetensors").read_bytes() == (policy / "model.safetensors").read_bytes()
    assert not (out / "start.part").exists()


@pytest.mark.slow
def test_what_no_task_asks_for_is_trained_untried_and_keeps_its_rate(waving, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(waving, out, "--batch-size", "2", "--steps", "1") == 0
    assert capsys.readouterr().err.count("no sentence of the dataset is one of a known task") == 1
    assert not (out / "eval").exists()
    said = json.loads((out / "policy" / "parol6.json").read_text())
    assert (said["control_hz"], said["gripper"], said["lowercase"]) == (15, "ssg48", True)
    assert said["words"]


def test_a_run_of_lerobots_that_is_at_its_end_does_not_begin_again(root, tmp_path, capsys):
    out = tmp_path / "run"
    pretrained = out / "lerobot" / "checkpoints" / "000004" / "pretrained_model"
    pretrained.mkdir(parents=True)
    (pretrained / "model.safetensors").write_bytes(b"weights")
    (pretrained.parents[1] / "last").symlink_to("000004")
    pretrained.with_name("training_state").mkdir()
    (pretrained.parent / "training_state" / "training_step.json").write_text('{"step": 4}')
    (out / "start").mkdir()
    kept = {"dataset": str(root), "start": "mine", "trainer": "lerobot", "steps": 4}
    (out / "run.json").write_text(json.dumps(kept))
    assert train(root, out, "--resume", "--eval-episodes", "0") == 2
    assert "--steps 4: expected above 4" in capsys.readouterr().err
    assert (out / "policy" / "model.safetensors").read_bytes() == b"weights"


def test_the_check_of_drawing_is_one_of_doctors(monkeypatch):
    from smolvla_gym.cli.commands.train_trials import check_drawing
    from smolvla_gym.doctor import probe
    from smolvla_gym.training.trials import TrialOptions

    asked = []
    monkeypatch.setattr(probe, "probe", lambda name, timeout: asked.append(name) or [])
    check_drawing(TrialOptions(("lift",), 1))
    assert set(asked) <= set(probe.PROBES)
    assert len(asked) == 1
