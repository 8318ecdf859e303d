"""Run the examples as a new user would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.tasks import TASKS, get_task, register_task
from smolvla_gym.tasks.reach import Reach

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, folder, *arguments, timeout=240):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_first_steps(tmp_path):
    pytest.importorskip("lerobot")
    output = run("first_steps.py", tmp_path, "--out", "video")
    assert "camera wrist: (256, 256, 3) uint8" in output
    summary = json.loads((tmp_path / "video" / "summary.json").read_text())
    assert f"success rate {summary['success_rate']:.0%}" in output
    assert (tmp_path / "video" / "rollout.mp4").stat().st_size > 10_000


@pytest.mark.slow
def test_own_task(tmp_path):
    pytest.importorskip("pyarrow")
    assert "demo has 2 episodes" in run("own_task.py", tmp_path, "--root", "demo", "--episodes", "2")
    assert "demo has 3 episodes" in run("own_task.py", tmp_path, "--root", "demo", "--episodes", "3")
    info = json.loads((tmp_path / "demo" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 3


@pytest.mark.slow
def test_every_command_knows_a_task_of_its_module(tmp_path):
    """The worker processes import the module, too."""
    pytest.importorskip("lerobot")
    command = [sys.executable, "-m", "smolvla_gym", "eval", "--task", "own_task:between", "--episodes", "1"]
    command += ["--workers", "2", "--num-objects", "3", "--out", str(tmp_path), "--json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (row,) = json.loads(done.stdout)["conditions"]
    assert (row["task"], row["episodes"]) == ("own_task:between", 1)
    assert all(re.fullmatch(r"ended \d+ cm away", failure) for failure in row["failures"])


def test_a_module_that_is_not_there():
    with pytest.raises(OptionError, match=r"task='nowhere:mine'.*No module named 'nowhere'"):
        get_task("nowhere:mine")
    with pytest.raises(UnknownNameError, match="'mine'"):
        get_task("smolvla_gym.tasks:mine")


@pytest.mark.slow
def test_finetune(tmp_path):
    """The start is a small checkpoint for another arm, as lerobot/smolvla_base is."""
    pytest.importorskip("lerobot.datasets")
    pytest.importorskip("accelerate")
    from tests.training.other_arm import build_other_arm

    build_other_arm(tmp_path / "base", ("pick up the red cube",))
    arguments = ["--from", "base", "--out", "run", "--episodes", "2", "--image-size", "64", "--batch-size", "2",
                 "--workers", "0", "--trials", "1", "--max-steps", "30"]  # fmt: skip
    output = run("finetune.py", tmp_path, *arguments, "--steps", "2")
    assert "step 2 of 2: loss " in output
    assert re.search(r"run/policy succeeds in [01] of 1 held-out scenes", output)
    assert (tmp_path / "run" / "video" / "rollout.mp4").stat().st_size > 10_000
    episodes = json.loads((tmp_path / "run" / "dataset" / "meta" / "parol6.json").read_text())["episodes"]
    (tried,) = json.loads((tmp_path / "run" / "video" / "summary.json").read_text())["episodes"]
    assert len(episodes) == 2
    assert tried["seed"] not in {episode["seed"] for episode in episodes}
    config = json.loads((tmp_path / "run" / "policy" / "config.json").read_text())
    assert config["output_features"]["action"]["shape"] == [7]


@pytest.mark.slow
def test_train_bundled(tmp_path):
    pytest.importorskip("lerobot")
    from smolvla_gym.agent import SmolVLAAgent

    few = ["--episodes", "1", "--scale", "0.0002", "--batch-size", "4", "--workers", "1", "--threads", "1"]
    output = run("train_bundled.py", tmp_path, "--out", "made", *few, timeout=480)
    trained = re.findall(r"^(\S+): (\d+) steps in", output, re.MULTILINE)
    assert trained == [("1-demonstrations", "2"), ("2-dagger", "1"), ("3-dagger", "1")]
    card = SmolVLAAgent.from_pretrained(tmp_path / "made" / "policy", device="cpu").card
    assert (card.chunk_size, card.n_action_steps, card.max_delay, card.empty_cameras) == (64, 12, 36, 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the twin needs a pseudo-terminal")
def test_sim_to_real(tmp_path):
    pytest.importorskip("lerobot")
    output = run("sim_to_real.py", tmp_path, "--seed", "2")
    assert output.count("success after") == 3
    by_sight, replayed = (
        [float(number) for number in re.findall(r"joint_\d ([\d.]+)", line)]
        for line in output.splitlines()
        if "largest difference" in line
    )
    assert len(replayed) == 6
    # With the same actions only the backends differ. The policy enlarges small differences of the images.
    assert 0.0 < max(replayed) < 0.5
    assert max(replayed) < max(by_sight) < 90.0


@pytest.mark.slow
def test_remote_gpu(tmp_path):
    pytest.importorskip("lerobot")
    output = run("remote_gpu.py", tmp_path, "--chunks", "6", "--episodes", "1")
    assert "computes bundled on its" in output
    assert re.search(r"a chunk takes \d+ ms \(median\), \d+ ms \(99th percentile\)", output)
    chunks, late = re.search(r"success in \d+ steps; (\d+) chunks, at most (\d+) steps late", output).groups()
    assert int(chunks) > 5
    assert int(late) > 0


def test_ros2_node(tmp_path):
    pytest.importorskip("cyclonedds")
    output = run("ros2_node.py", tmp_path, "--policy", "expert", "--domain", "94")
    first, second = (
        [float(number) for number in re.search(r"\[(.*?)\]", line)[1].split(",")]
        for line in output.splitlines()
        if line.startswith("joints at")
    )
    assert second[0] - first[0] == pytest.approx(0.3, abs=0.01)
    assert ": success" in output
    assert "'event': 'stopped'" in output


@pytest.fixture
def tasks():
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


def test_tasks_are_registered_by_name(tasks):
    class Mine(Reach):
        name = "mine"

    register_task(Mine())
    register_task(Mine())  # a module that is loaded again
    assert isinstance(get_task("mine"), Mine)

    class Taken(Reach):
        name = "lift"

    with pytest.raises(OptionError, match="'lift'"):
        register_task(Taken())

    class Mute(Reach):
        name = "mute"
        instruction_templates = ("go there",)

    with pytest.raises(OptionError, match="go there"):
        register_task(Mute())
