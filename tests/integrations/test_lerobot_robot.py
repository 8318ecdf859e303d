"""The arm as LeRobot's robot, in this process."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lerobot")

from smolvla_gym.errors import ActionError, DeviceError, OptionError, UnknownNameError
from smolvla_gym.integrations.lerobot.robot import (
    PAROL6Expert,
    PAROL6ExpertConfig,
    PAROL6Follower,
    PAROL6FollowerConfig,
    PAROL6Sim,
    PAROL6SimConfig,
)
from smolvla_gym.integrations.lerobot.robot.units import KEYS, from_lerobot, to_lerobot
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER

FAST = {"observed": [], "fps": 50}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setattr("lerobot.robots.robot.HF_LEROBOT_CALIBRATION", tmp_path)
    monkeypatch.setattr("lerobot.teleoperators.teleoperator.HF_LEROBOT_CALIBRATION", tmp_path)


@pytest.fixture
def connect():
    robots = []

    def make(**options):
        robot = PAROL6Sim(PAROL6SimConfig(id="test", **{**FAST, **options}))
        robot.connect()
        robots.append(robot)
        return robot

    yield make
    for robot in robots:
        robot.disconnect()


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def pose(robot):
    return from_lerobot(robot.get_observation(), use_degrees=robot.config.use_degrees)


@given(st.lists(st.floats(-7, 7, width=32), min_size=7, max_size=7), st.booleans())
def test_units_there_and_back(values, use_degrees):
    named = to_lerobot(np.array(values, np.float32), use_degrees=use_degrees)
    np.testing.assert_allclose(from_lerobot(named, use_degrees=use_degrees), values, rtol=1e-6, atol=1e-6)


def test_degrees_and_percent():
    named = to_lerobot(np.array([math.pi, 0, 0, 0, 0, 0, 0.25], np.float32), use_degrees=True)
    assert named["joint_1.pos"] == pytest.approx(180)
    assert named["gripper.pos"] == pytest.approx(25)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "left", None])
def test_a_bad_action_is_refused_and_the_arm_goes_on(connect, bad):
    robot = connect()
    good = robot.get_observation()
    with pytest.raises(ActionError, match=r"finite|number"):
        robot.send_action({**good, "joint_3.pos": bad})
    with pytest.raises(ActionError, match=r"joint_2\.pos"):
        robot.send_action({key: value for key, value in good.items() if key != "joint_2.pos"})
    assert np.isfinite(pose(robot)).all()


def test_it_follows_and_stays_within_its_limits(connect):
    robot = connect()
    begin = robot.get_observation()
    assert set(begin) == set(robot.observation_features) == set(KEYS)
    sent = robot.send_action({**begin, "joint_1.pos": 9999.0, "gripper.pos": -5.0})
    assert sent["joint_1.pos"] == pytest.approx(np.rad2deg(JOINT_UPPER[0]), abs=1e-3)
    assert sent["gripper.pos"] == 0
    wait_until(lambda: robot.get_observation()["joint_1.pos"] > begin["joint_1.pos"] + 5)
    assert np.all(pose(robot)[:6] >= JOINT_LOWER - 1e-3)


def test_it_stops_without_commands(connect):
    robot = connect(hold_after_s=0.2)
    begin = robot.get_observation()
    robot.send_action({**begin, "joint_1.pos": begin["joint_1.pos"] + 100})
    wait_until(lambda: robot.get_observation()["joint_1.pos"] > begin["joint_1.pos"] + 2)
    time.sleep(0.8)
    before = pose(robot)
    time.sleep(0.3)
    np.testing.assert_allclose(pose(robot), before, atol=1e-3)
    assert robot.get_observation()["joint_1.pos"] < begin["joint_1.pos"] + 90


def test_the_expert_solves_scene_after_scene(connect):
    robot = connect(task="reach", renew_after_s=0.1, fps=100)
    expert = PAROL6Expert(PAROL6ExpertConfig())
    expert.connect()
    end = time.monotonic() + 60
    while robot.loop.latest().scene < 2:
        assert time.monotonic() < end
        robot.send_action(expert.get_action())
        time.sleep(0.01)


@pytest.mark.alone
@pytest.mark.realtime
def test_the_twin(tmp_path):
    robot = PAROL6Follower(
        PAROL6FollowerConfig(id="test", port="twin", speed_scale=1.0, observed=["wrist"], image_size=[32, 48])
    )
    robot.connect()
    try:
        begin = robot.get_observation()
        assert begin["wrist"].shape == (32, 48, 3)
        assert begin["wrist"].std() > 1
        robot.send_action({**begin, "joint_1.pos": begin["joint_1.pos"] + 20})
        wait_until(lambda: robot.get_observation()["joint_1.pos"] > begin["joint_1.pos"] + 3)
    finally:
        robot.disconnect()
    assert not robot.is_connected
    with pytest.raises(DeviceError, match="connect"):
        robot.get_observation()


@pytest.mark.parametrize("backend", ["sim", "twin"])
def test_an_interrupted_connect_leaves_no_arm_alive(backend, monkeypatch):
    if backend == "sim":
        robot = PAROL6Sim(PAROL6SimConfig(**FAST))
    else:
        robot = PAROL6Follower(PAROL6FollowerConfig(port="twin", **FAST))

    def interrupt(self, predicate, timeout=None):
        time.sleep(0.5 if backend == "sim" else 3.0)  # on its way to the start pose
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            robot.connect()
    assert not robot.is_connected
    wait_until(lambda: not any(thread.name == "parol6-env" for thread in threading.enumerate()), 30)


def test_what_is_wrong_shows_before_anything_opens():
    with pytest.raises(UnknownNameError, match="camera"):
        PAROL6Sim(PAROL6SimConfig(observed=["wirst"]))
    with pytest.raises(OptionError, match="image_size"):
        PAROL6Sim(PAROL6SimConfig(image_size=[2, 2]))
    robot = PAROL6Sim(PAROL6SimConfig(task="lfit", **FAST))
    with pytest.raises(UnknownNameError, match="'lift'"):
        robot.connect()
    assert not robot.is_connected
    with pytest.raises(DeviceError, match="0 are"):
        PAROL6Expert(PAROL6ExpertConfig()).get_action()


@pytest.mark.parametrize("home", [True, False])
def test_an_arm_is_homed_only_where_it_needs_it(monkeypatch, home):
    """Connecting again must not home again: that is what the env's own option does, and no reset asks for it."""
    made, resets = [], []

    class Arm:
        control_hz = 50.0

        def __init__(self):
            self.metadata = {"realtime": True}

        def reset(self, **given):
            resets.append(given)
            raise DeviceError("enough")

        def close(self):
            pass

    def make_real_env(**options):
        made.append(options)
        return Arm()

    monkeypatch.setattr("smolvla_gym.envs.make_real.make_real_env", make_real_env)
    robot = PAROL6Follower(PAROL6FollowerConfig(id="test", port="/dev/ttyACM0", home=home, **FAST))
    with pytest.raises(DeviceError, match="enough"):
        robot.connect()
    assert [options["home"] for options in made] == [home]
    assert "home" not in (resets[0].get("options") or {})


def test_cameras_of_lerobot_are_passed_on(monkeypatch):
    from lerobot.cameras.opencv.configuration_opencv import OpenCVCameraConfig

    from smolvla_gym.errors import OptionError

    made = []

    def make_real_env(**options):
        made.append(options)
        raise DeviceError("enough")

    monkeypatch.setattr("smolvla_gym.envs.make_real.make_real_env", make_real_env)
    cameras = {"front": OpenCVCameraConfig(index_or_path=0, width=640, height=480, fps=30)}
    robot = PAROL6Follower(PAROL6FollowerConfig(id="test", port="/dev/ttyACM0", cameras=cameras, **FAST))
    assert robot.observation_features["front"] == (256, 256, 3)
    with pytest.raises(DeviceError, match="enough"):
        robot.connect()
    assert made[0]["camera"] == cameras
    assert made[0]["cameras"] == ("front",)
    with pytest.raises(OptionError):
        PAROL6FollowerConfig(camera={"wrist": "1"}, cameras=cameras)


@pytest.mark.parametrize("kind", ["env", "real env", "robot", "real robot"])
def test_a_configuration_imports_no_module(kind):
    from smolvla_gym.errors import OptionError
    from smolvla_gym.integrations.lerobot.env import PAROL6EnvConfig, PAROL6RealEnvConfig
    from smolvla_gym.integrations.lerobot.robot.config import PAROL6FollowerConfig, PAROL6SimConfig

    classes = {
        "env": PAROL6EnvConfig, "real env": PAROL6RealEnvConfig,
        "robot": PAROL6SimConfig, "real robot": PAROL6FollowerConfig,
    }  # fmt: skip
    with pytest.raises(OptionError, match="registered"):
        classes[kind](task="antigravity:lift")
    assert classes[kind](task="reach").task == "reach"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("hold_after_s", value) for value in (math.nan, -1.0, 0.0, "no", 1e9)),
        ("use_degrees", "no"),
        ("use_degrees", 0),
        ("image_size", 64),
    ],
)
def test_a_watchdog_that_never_stops_the_arm_and_unclear_units_are_refused(option, value):
    with pytest.raises(OptionError, match=option):
        PAROL6Sim(PAROL6SimConfig(id="test", **{**FAST, option: value}))


@pytest.mark.parametrize("action", [None, [0.0] * 7, {**dict.fromkeys(KEYS, 0.0), KEYS[0]: 10**5000}])
def test_an_action_that_is_none_is_refused(action):
    with pytest.raises(ActionError):
        from_lerobot(action, use_degrees=True)
