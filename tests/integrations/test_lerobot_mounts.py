"""The mount guard of the robot for LeRobot."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("lerobot")
pytest.importorskip("pyrealsense2")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

from smolvla_gym.calibration.mount_guard import keep_references  # noqa: E402
from smolvla_gym.calibration.mount_reference import load_reference  # noqa: E402
from smolvla_gym.envs.make_real import make_real_env  # noqa: E402
from smolvla_gym.errors import CalibrationError  # noqa: E402
from smolvla_gym.integrations.lerobot.robot.config import PAROL6FollowerConfig  # noqa: E402
from smolvla_gym.integrations.lerobot.robot.loop import EnvLoop  # noqa: E402
from smolvla_gym.integrations.lerobot.robot.mounts import guard_mounts  # noqa: E402
from smolvla_gym.integrations.lerobot.robot.robot import PAROL6Follower  # noqa: E402

OPTIONS = {
    "port": "twin", "camera": "twin", "realtime": False, "cameras": ("wrist",), "image_size": (32, 32), "log": None,
    "twin_options": {"homed": True},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    env = make_real_env(**OPTIONS)
    env.reset(seed=0)
    keep_references(env, tmp_path)
    env.close()
    return tmp_path


def make_loop(folder):
    return EnvLoop(partial(make_real_env, **OPTIONS), prepare=partial(guard_mounts, str(folder)))


def test_a_moved_camera_is_warned_of_before_the_first_observation(folder, recwarn):
    loop = make_loop(folder)
    loop.start()
    loop.stop()
    assert [str(each.message) for each in recwarn if "camera" in str(each.message)] == []
    kept = load_reference(folder, "wrist")
    replace(kept, image=np.roll(kept.image, 3, axis=1), mask=np.roll(kept.mask, 3, axis=1)).save(folder)
    loop = make_loop(folder)
    with pytest.warns(RuntimeWarning, match="moved"):
        loop.start()
    assert loop.latest().observation["pixels"]["wrist"].shape == (32, 32, 3)
    loop.stop()


def test_a_broken_image_is_an_error_before_anything_moves(folder):
    (folder / "mount_wrist.png").write_bytes(b"")
    loop = make_loop(folder)
    with pytest.raises(CalibrationError):
        loop.start()


@pytest.mark.parametrize("on", [True, False])
def test_the_robot_has_a_guard_unless_it_is_switched_off(on):
    robot = PAROL6Follower(PAROL6FollowerConfig(id="test", port="twin", mount_guard=on))
    assert (robot._make_loop()._prepare is not None) == on
