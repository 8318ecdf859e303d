"""The examples that somebody new would run, as they would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from smolvla_gym.errors import OptionError
from smolvla_gym.tasks import TASKS, get_task, register_task
from smolvla_gym.tasks.reach import Reach

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, folder, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_first_steps(tmp_path):
    pytest.importorskip("lerobot")
    said = run("first_steps.py", tmp_path, "--out", "film")
    assert "camera wrist: (256, 256, 3) uint8" in said
    summary = json.loads((tmp_path / "film" / "summary.json").read_text())
    assert f"success rate {summary['success_rate']:.0%}" in said
    assert (tmp_path / "film" / "rollout.mp4").stat().st_size > 10_000


def test_own_task(tmp_path):
    pytest.importorskip("pyarrow")
    assert "demo has 2 episodes" in run("own_task.py", tmp_path, "--root", "demo", "--episodes", "2")
    assert "demo has 3 episodes" in run("own_task.py", tmp_path, "--root", "demo", "--episodes", "3")
    info = json.loads((tmp_path / "demo" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 3


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
        phrasings = ("go there",)

    with pytest.raises(OptionError, match="go there"):
        register_task(Mute())
