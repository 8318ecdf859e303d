"""LeRobot's own programs on the simulated arm and on the twin, each in a process of its own, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.cli.main import main
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

pytest.importorskip("lerobot")
libusb_package = pytest.importorskip("libusb_package")

pytestmark = pytest.mark.slow

ENV = "--env.discover_packages_path=smolvla_gym.integrations.lerobot.env"
ROBOT = "--robot.discover_packages_path=smolvla_gym.integrations.lerobot.robot"
SIM = [ROBOT, "--robot.type=parol6_sim", "--robot.id=test", "--robot.image_size=[64, 64]", "--robot.seed=2"]
TWIN = [
    ROBOT, "--robot.type=parol6_follower", "--robot.port=twin", "--robot.id=test", "--robot.speed_scale=1",
    "--robot.image_size=[64, 64]",
]  # fmt: skip
CAMERAS = "[wrist, scene]"


def run(name: str, folder: Path, *arguments: str) -> str:
    """Runs a program of LeRobot's and returns its output."""
    # Its programs import pyrealsense2 without looking for the libusb that the wheel lacks.
    usb = str(libusb_package.get_library_path() or "")
    env = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_LEROBOT_HOME": str(folder / "home"), "SDL_VIDEODRIVER": "dummy",
        **({"LD_PRELOAD": usb} if usb else {}),
    }  # fmt: skip
    command = [sys.executable, "-m", f"lerobot.scripts.lerobot_{name}", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=240)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lerobot")


@pytest.fixture(scope="module")
def policy(folder):
    assert main(["export", "bundled", str(folder / "policy")]) == 0
    return "policy"


@pytest.fixture(scope="module")
def dataset(folder):
    """One demonstration of the expert, recorded by ``lerobot-record``."""
    run(
        "record", folder, *SIM, "--teleop.type=parol6_expert", "--dataset.repo_id=local/parol6", "--dataset.root=demo",
        "--dataset.push_to_hub=false", "--dataset.single_task=pick up the red cube", "--dataset.num_episodes=1",
        "--dataset.episode_time_s=2", "--dataset.reset_time_s=0", "--dataset.fps=15", "--play_sounds=false",
    )  # fmt: skip
    return "demo"


def test_eval(folder, policy):
    output = run(
        "eval", folder, ENV, "--env.type=parol6", f"--env.cameras={CAMERAS}", "--env.image_size=[64, 64]",
        f"--policy.path={policy}", "--policy.device=cpu", "--eval.n_episodes=2", "--eval.batch_size=1", "--seed=2",
        "--env.episode_length=40", "--output_dir=eval",
    )  # fmt: skip
    result = json.loads((folder / "eval" / "eval_info.json").read_text())["overall"]
    assert result["n_episodes"] == 2
    assert result["avg_max_reward"] > 0
    assert "Exception" not in output
    for video in result["video_paths"]:
        assert (folder / video).stat().st_size > 1000


def test_eval_of_the_twin_has_one_copy(folder, policy):
    output = run(
        "eval", folder, ENV, "--env.type=parol6_real", "--env.port=twin", "--env.realtime=false",
        f"--env.cameras={CAMERAS}", "--env.image_size=[64, 64]", f"--policy.path={policy}", "--policy.device=cpu",
        "--eval.n_episodes=2", "--eval.batch_size=2", "--env.episode_length=20", "--output_dir=twin",
    )  # fmt: skip
    assert "There is one arm" in output
    assert (folder / "twin" / "eval_info.json").exists()


@pytest.mark.parametrize(("robot", "inference"), [(SIM, "rtc"), pytest.param(TWIN, "sync", marks=pytest.mark.realtime)])
def test_rollout(folder, policy, robot, inference):
    output = run(
        "rollout", folder, *robot, f"--robot.observed={CAMERAS}", "--robot.use_degrees=false",
        f"--policy.path={policy}", "--policy.device=cpu", "--device=cpu", f"--inference.type={inference}",
        "--strategy.type=base", "--task=pick up the red cube", "--duration=2", "--fps=30",
        "--return_to_initial_position=false",
    )  # fmt: skip
    assert "Rollout finished" in output
    assert "Traceback" not in output


def test_record_in_degrees(folder, dataset):
    import pyarrow.parquet as pq

    info = json.loads((folder / dataset / "meta" / "info.json").read_text())
    assert info["features"]["action"]["names"] == [*(f"joint_{i}.pos" for i in range(1, 7)), "gripper.pos"]
    table = pq.read_table(next((folder / dataset / "data").rglob("*.parquet")))
    for column in ("observation.state", "action"):
        values = np.array(table[column].to_pylist())
        assert len(values) >= 10
        assert np.all(values[:, :6] >= np.rad2deg(JOINT_LOWER) - 0.1)
        assert np.all(values[:, :6] <= np.rad2deg(JOINT_UPPER) + 0.1)
        assert np.all((values[:, 6] >= 0) & (values[:, 6] <= 100))
        assert np.ptp(values[:, :6], axis=0).max() > 10


def test_replay(folder, dataset):
    arguments = ["--dataset.repo_id=local/parol6", f"--dataset.root={dataset}", "--dataset.episode=0"]
    assert "Replaying" in run("replay", folder, *SIM, *arguments, "--play_sounds=false")


def test_teleoperate(folder):
    output = run("teleoperate", folder, *SIM, "--teleop.type=parol6_keyboard", "--teleop_time_s=1", "--fps=30")
    assert "Teleop loop time" in output


def test_what_was_recorded_can_be_trained_on(folder, dataset, capsys):
    pytest.importorskip("accelerate")
    command = ["train", "--dataset", str(folder / dataset), "--out", str(folder / "run"), "--steps", "2"]
    assert main([*command, "--batch-size", "2", "--device", "cpu", "--eval-episodes", "0"]) == 0
    assert "was converted" in capsys.readouterr().err
    assert (folder / "run" / "policy" / "config.json").exists()
