"""The real env with network cameras: those of the twin, as MJPEG over a real socket, with every fault."""

from __future__ import annotations

import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest

import smolvla_gym
from smolvla_gym.envs.env_options import EnvOptions
from smolvla_gym.envs.make_real import make_real_env, named_configs
from smolvla_gym.envs.real_options import RealOptions
from smolvla_gym.errors import FaultError, OptionError, UnknownNameError
from smolvla_gym.integrations.bridge.publisher import Publisher
from smolvla_gym.parol6 import HOME
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.twin import Twin
from smolvla_gym.twin.virtual_camera import MJPEG
from tests.drivers.stream_rig import Sender
from tests.envs.twin_rig import QUICK, SOUND, drive, make_twin
from tests.integrations.bridge.memory import MemoryTransport

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

AT_HOME = {"joints": HOME}
STAY = np.array([*HOME, 1.0], np.float32)
LIMIT = 0.25
"""Age in s of an image at which the arm is held."""


@pytest.fixture(scope="module")
def env():
    before = set(threading.enumerate())
    options = {**SOUND, "transport": MJPEG, "own_process": False}
    env = make_twin(**QUICK, cameras=("wrist", "scene"), image_size=(64, 64), twin_options=options)
    yield env
    env.close()
    left = {
        thread for thread in set(threading.enumerate()) - before if "camera" in thread.name or "send" in thread.name
    }
    assert not left


def recover(env):
    env.unwrapped.backend.twin.faults.clear()
    end = time.monotonic() + 10.0
    while True:
        try:
            env.unwrapped.clear_fault()
            return
        except FaultError:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.realtime
def test_the_images_are_those_of_realsense_cameras(env):
    """The same view is cut out, by the intrinsics that the server states; JPEG changes little."""
    other = make_twin(gripper="pneumatic", cameras=("wrist", "scene"), image_size=(64, 64))
    seen = []
    try:
        for each in (other, env):
            each.reset(seed=3, options=AT_HOME)
            drive(each, 0.3, STAY)  # until the jaws stand still
            seen.append(each.step(STAY)[0])
    finally:
        other.close()
    expected, got = seen
    for name in ("wrist", "scene"):
        difference = np.abs(got["pixels"][name].astype(int) - expected["pixels"][name])
        assert difference.mean() < 2.5, name


@pytest.mark.alone
@pytest.mark.realtime
@pytest.mark.parametrize(
    ("fault", "word", "reason"),
    [
        ("camera_frozen", "camera_stale", ""), ("camera_unplugged", "camera_", ""),
        ("camera_torn", "camera_stale", "no complete JPEG"), ("camera_small", "camera_stale", "320x240"),
    ],
)  # fmt: skip
def test_each_fault_holds_the_arm_in_time_and_ends(env, fault, word, reason):
    env.reset(seed=0, options=AT_HOME)
    drive(env, 0.3, STAY)
    env.unwrapped.backend.twin.faults.set(fault, True)
    began = time.monotonic()
    info = drive(env, 3.0, STAY)
    took = time.monotonic() - began
    print(f"{fault}: {info['fault']} after {took:.3f} s")
    assert info["fault"].startswith(word)
    # The newest image may have been 1 period old, and a step ends every 33 ms.
    assert took < LIMIT + 0.2
    assert any(reason in intervention["why"] for intervention in info["safety"])
    with pytest.raises(FaultError, match=reason or "still"):
        env.unwrapped.clear_fault()
    recover(env)
    env.reset(seed=1, options=AT_HOME)
    assert drive(env, 0.3, STAY)["fault"] is None


@pytest.mark.realtime
def test_an_arm_with_cameras_of_any_name():
    """A twin behind its serial port, one of its cameras over HTTP under another name, and a further camera."""
    twin = Twin(homed=True, gripper="pneumatic", cameras=("scene",), transport=MJPEG)
    side = Sender()
    env = None
    try:
        twin.start()
        assert twin.served is not None
        env = gym.make(
            smolvla_gym.REAL_ID, port=twin.port, gripper="pneumatic", log=None, image_size=(48, 64), home=True,
            camera={"scene": twin.served.configs["scene"].url, "side": {"type": "mjpeg", "url": side.url}},
            cameras=("side", "scene"), board_options={"feedback_timeout": 0.5},
        )  # fmt: skip
        assert set(env.observation_space["pixels"].spaces) == {"side", "scene"}
        observation, _ = env.reset(seed=0, options=AT_HOME)
        assert observation in env.observation_space
        info = drive(env, 0.3, STAY)
        assert info["fault"] is None
        assert info["frame_age_s"] < LIMIT
        observation, *_, info = env.step(STAY)
        # Where its camera is, only a calibration could tell.
        transport = MemoryTransport()
        Publisher(env, transport).publish(1, observation, info, mode="policy", fault=None, instruction="reach")
        topics = {topic for topic, _ in transport.sent}
        assert {"/camera/side/image/compressed", "/camera/scene/camera_info"} <= topics
        assert "/camera/side/camera_info" not in topics
    finally:
        if env is not None:
            env.close()
        side.close()
        twin.close()


def check(**options):
    given = {**make_real_env.__kwdefaults__, "port": "/dev/ttyNONE", "log": None, **options}
    common = EnvOptions.check(given, named_configs(given["camera"]))
    return RealOptions.check(given, common)


def test_options():
    url = "http://127.0.0.1:1/x"
    arm = check(camera={"wrist": "5", "front": {"type": "opencv", "index_or_path": 0}}, cameras=("wrist", "front"))
    assert arm.serials == {"wrist": "5"}
    assert set(arm.configs) == {"front"}
    assert set(check(camera=url).configs) == {"wrist"}
    assert list(check(camera={"front": url, "side": url}, cameras=("side", "front")).cameras) == ["side", "front"]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (UnknownNameError, {"camera": {"front": "5"}, "cameras": ("front",)}),
        (OptionError, {"camera": {"front": "http://a/"}}),
        (OptionError, {"camera": {"a b": "http://a/"}, "cameras": ("a b",)}),
        (OptionError, {"camera": {"front": {"type": "bogus"}}, "cameras": ("front",)}),
        (OptionError, {"camera": {"front": "http://a/"}, "cameras": ("front",), "depth": True}),
        (OptionError, {"port": "twin", "camera": {"wrist": "http://a/"}}),
        (OptionError, {"port": "twin", "twin_options": {"transport": "pigeon"}}),
        (OptionError, {"port": "twin", "twin_options": {"transport": MJPEG}, "depth": True}),
        (OptionError, {"port": "twin", "twin_options": {"transport": MJPEG}, "realtime": False}),
    ],
    ids=range(9),
)
def test_options_that_are_refused(error, options):
    with pytest.raises(error):
        check(**options)


def test_the_new_faults_are_off_by_default():
    faults = Faults()
    assert not faults.camera_torn
    assert not faults.camera_small
