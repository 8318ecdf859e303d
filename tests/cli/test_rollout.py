import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import gymnasium
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.errors import CheckpointError, FaultError, OptionError
from tests.standin import StandIn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Puts the stand-in behind ``gymnasium.make`` and returns the list of the options that it was made with."""
    calls = []

    def replacement(env_id, **options):
        calls.append({"id": env_id, **options})
        return StandIn(**options)

    monkeypatch.setattr(gymnasium, "make", replacement)
    monkeypatch.chdir(tmp_path)
    return calls


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_defaults(make, capsys, tmp_path):
    assert main(["rollout", "--policy", "expert"]) == 0
    assert make == [
        {
            "id": "PAROL6Sim-v0",
            "task": "lift",
            "gripper": "ssg48",
            "randomization": 1,
            "control_hz": 30,
            "render_mode": "rgb_array",
        }
    ]
    (folder,) = (tmp_path / "outputs" / "rollout").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["rollout.mp4", "summary.json"]
    printed = capsys.readouterr().out
    for word in ("seed", "instruction", "success", "steps", "return", "pick up the red cube", "yes", "4.00", "100%"):
        assert word in printed
    assert str(folder.relative_to(tmp_path)) in printed


def test_options_arrive(make, tmp_path):
    line = "rollout --task stack --policy random --episodes 2 --seed 7 --randomization 2 --gripper pneumatic"
    assert main([*line.split(), "--control-hz", "10", "--out", str(tmp_path / "a"), "--no-video"]) == 0
    assert make[0]["task"] == "stack"
    assert (make[0]["randomization"], make[0]["gripper"], make[0]["control_hz"]) == (2, "pneumatic", 10)
    assert make[0]["render_mode"] is None
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["summary.json"]
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert [episode["seed"] for episode in summary["episodes"]] == [7, 8]


def test_json_is_alone_on_stdout(make, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(StandIn, "render", lambda self, render=StandIn.render: (print("noise"), render(self))[1])
    assert main(["rollout", "--policy", "random", "--json", "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads((tmp_path / "a" / "summary.json").read_text())
    assert "noise" in printed.err


def test_a_policy_gets_the_cameras_it_needs(make, monkeypatch, capsys):
    seen = []

    class Policy:
        cameras, image_size = ("wrist", "scene"), (128, 128)

        @classmethod
        def from_pretrained(cls, path, *, device):
            seen.append((path, device))
            return cls()

        def check(self, observation_space, action_space):
            seen.append("check")

        def reset(self, instruction, seed=None):
            seen.append(instruction)

        def act(self, observation):
            return StandIn().expert_action()

    monkeypatch.setattr("smolvla_gym.agent.SmolVLAAgent", Policy, raising=False)
    assert main(["rollout", "--policy", "somebody/something", "--device", "cpu", "--no-video"]) == 0
    assert seen == [("somebody/something", "cpu"), "check", "pick up the red cube"]
    assert (make[0]["cameras"], make[0]["image_size"]) == (("wrist", "scene"), (256, 256))
    assert "loading policy somebody/something" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--task lfit", "Did you mean 'lift'?"),
        ("--policy expertt", "Did you mean 'expert'?"),
        ("--policy ./no/such/folder", "bundled, expert, random"),
        ("--gripper ssg", "Did you mean 'ssg48'?"),
        ("--episodes 0", "whole number from 1 on"),
        ("--seed x", "whole number from 0 on"),
        ("--control-hz -3", "not a positive number"),
        ("--control-hz nan", "not a positive number"),
        ("--nonsense", "unrecognized arguments"),
    ],
)
def test_wrong_arguments(make, capsys, tmp_path, arguments, hint):
    assert main(["rollout", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert hint in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert make == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("broken"), 1),
        (FaultError("held"), 1),
        (OSError(28, "No space left on device"), 1),
        (OptionError("randomization", 9, "0 to 3"), 2),
    ],
)
def test_failures_are_one_line(make, capsys, monkeypatch, tmp_path, error, code):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(StandIn, "reset", fail)
    command = ["rollout", "--policy", "random", "--out", str(tmp_path / "a")]
    assert main(command) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"smolvla-gym: error: {error}"
    assert not any("Traceback" in line for line in lines)
    monkeypatch.setenv("SMOLVLA_GYM_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(command)


def test_an_output_folder_that_cannot_be_made(make, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["rollout", "--policy", "random", "--out", str(tmp_path / "file" / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failure_before_the_first_episode_leaves_no_empty_folder(make, monkeypatch, tmp_path):
    monkeypatch.setattr(StandIn, "__init__", functools.partialmethod(lambda self, **_: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        main(["rollout", "--policy", "random", "--out", str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()


INTERRUPTED = """
import functools, sys, gymnasium
from tests import standin
standin.StandIn.signals = [int(number) for number in sys.argv[2:]]
gymnasium.make = lambda env_id, **options: standin.StandIn(signal_at=6, **options)
from smolvla_gym.cli.main import main
sys.exit(main(["rollout", "--policy", "expert", "--json", "--out", sys.argv[1]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C twice"],
)
def test_a_signal_leaves_a_playable_video(tmp_path, signals, code):
    out = tmp_path / "out"
    command = [sys.executable, "-c", INTERRUPTED, str(out), *(str(int(number)) for number in signals)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert str(out) in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(file.name for file in out.iterdir()) == ["rollout.mp4", "summary.json"]
    assert frames(out / "rollout.mp4") == 6
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["episodes"][0]["end"] == "interrupted"
    assert summary["episodes"][0]["video"] == "rollout.mp4"


def test_tasks_version_and_help(capsys):
    assert main(["tasks"]) == 0
    assert "pick up the red cube" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("smolvla-gym ")
    assert main(["rollout", "--help"]) == 0
    assert "default: bundled" in capsys.readouterr().out
    assert main([]) == 2


def test_as_a_module_and_without_torch():
    code = "import sys, smolvla_gym.cli.main as m; m.main(['--version']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    done = subprocess.run([sys.executable, "-m", "smolvla_gym", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("smolvla-gym ")


def test_the_expert_in_the_real_simulation(capsys, tmp_path):
    command = ["rollout", "--task", "reach", "--policy", "expert", "--json", "--out", str(tmp_path)]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    (episode,) = summary["episodes"]
    assert (summary["env_id"], summary["control_hz"], episode["task"]) == ("PAROL6Sim-v0", 30.0, "reach")
    assert episode["end"] == "terminated"
    assert summary["success_rate"] == 1.0
    with av.open(str(tmp_path / "rollout.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (640, 480, episode["steps"] + 1)


@pytest.mark.parametrize("arguments", ["--randomization 9", "--control-hz 1000"])
def test_values_that_the_env_refuses_are_wrong_arguments(capsys, tmp_path, arguments):
    assert main(["rollout", "--policy", "random", "--out", str(tmp_path / "a"), *arguments.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "a").exists()
