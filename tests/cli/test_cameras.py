"""``smolvla-gym cameras``: lists, and a server in a process of its own as on the Windows side of WSL2."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.cli.commands.cameras import ServeCamerasOptions
from smolvla_gym.cli.main import main
from smolvla_gym.cli.options.environment import EnvironmentOptions
from smolvla_gym.cli.options.real_arm import RealArmOptions
from smolvla_gym.drivers.cameras import discovery
from smolvla_gym.drivers.cameras.configs import MjpegConfig
from smolvla_gym.drivers.cameras.framing import D405_COLOUR
from smolvla_gym.drivers.cameras.mjpeg_source import MjpegCamera
from smolvla_gym.errors import DeviceError, OptionError
from tests.drivers.stream_rig import Sender, number_in, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMOLVLA_GYM_TOKEN", raising=False)


@pytest.fixture
def sender():
    sender = Sender()
    sender.channel.intrinsics = D405_COLOUR
    yield sender
    sender.close()


def test_a_list_with_rate_age_and_image(sender, capsys, tmp_path):
    command = ["cameras", "list", "--camera", f"side={sender.url}", "--seconds", "1", "--out", "seen"]
    assert main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["cameras"]
    assert row["name"] == "side"
    assert row["size"] == [640, 480]
    assert 10.0 < row["rate"] < 40.0
    assert 0.0 <= row["age_ms"] < 250.0
    assert row["calibrated"]
    assert Path(row["image"]).stat().st_size > 1000
    assert main(command) == 0
    assert "side" in capsys.readouterr().out


def test_a_camera_that_is_not_there(capsys):
    command = ["cameras", "list", "--json", "--camera", "a=http://user:secret@127.0.0.1:9/"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "127.0.0.1:9" in json.loads(printed.out)["cameras"][0]["error"]
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize("command", [["cameras"], ["cameras", "list"]])
def test_without_cameras(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setattr(discovery, "find_cameras", lambda: ({}, ["USB cameras: no"]))
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "no camera" in printed.out
    assert "USB cameras: no" in printed.err
    assert list(tmp_path.iterdir()) == []
    assert main(["cameras", "serve"]) == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("list --camera http://a/", "NAME=CAMERA"), ("list --camera a=", "NAME=CAMERA"),
        ("list --camera a=1 --camera a=2", "each name once"), ("list --camera 2=1", "a letter"),
        ("list --seconds 0", "above 0"), ("serve --camera a=http://", "http://"), ("serve --port x", "an integer"),
        ("serve --token-file missing --camera a=http://a/", "missing"),
    ],
)  # fmt: skip
def test_wrong_arguments(capsys, arguments, hint):
    assert main(["cameras", *arguments.split()]) in (1, 2)
    assert hint in capsys.readouterr().err


def test_defaults_are_the_loopback():
    assert ServeCamerasOptions().host == "127.0.0.1"


@contextlib.contextmanager
def serving(*arguments, **environment):
    """A server in a process of its own; its cameras' addresses by name."""
    process = subprocess.Popen(
        [sys.executable, "-m", "smolvla_gym", "cameras", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        cameras = sum(argument == "--camera" for argument in arguments)
        yield process, dict(process.stdout.readline().split() for _ in range(cameras))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.realtime
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_camera_through_a_server_in_another_process(sender, tmp_path):
    """The way of WSL2: camera, server with a token, reader; times and intrinsics pass through."""
    (tmp_path / "token").write_text("a-secret\n")
    before = set(threading.enumerate())
    options = ("--token-file", str(tmp_path / "token"), "--camera", f"wrist={sender.url}")
    with serving(*options) as (process, cameras):
        with pytest.raises(DeviceError, match="401"):
            MjpegCamera(MjpegConfig(cameras["wrist"])).start()
        camera = MjpegCamera(MjpegConfig(cameras["wrist"], token="a-secret"))
        with contextlib.closing(camera):
            camera.start()
            assert camera.intrinsics == D405_COLOUR
            ages = []
            for _ in range(20):
                time.sleep(0.1)
                frame = camera.latest()
                ages.append(time.monotonic() - number_in(frame.pixels) / 1e6)
            print(f"age through two servers: median {1e3 * np.median(ages):.0f} ms, largest {1e3 * max(ages):.0f} ms")
            assert np.median(ages) < 0.1
            assert camera.age() < 0.25
            sender.channel.connected = False  # the camera of the server is unplugged
            until(lambda: camera.lost, 5.0)
            sender.channel.connected = True
            until(lambda: not camera.lost and camera.age() < 0.25, 10.0)
            process.send_signal(signal.SIGINT)
            until(lambda: camera.lost, 5.0)
            assert process.wait(10.0) == 130
    assert set(threading.enumerate()) <= before


# -- the option of other commands ------------------------------------------------------------------------------------


def test_cameras_on_the_command_line_of_an_arm():
    lerobot = '{"type": "opencv", "index_or_path": 0, "fourcc": "MJPG"}'
    real = RealArmOptions(
        port="/dev/ttyACM0", speed_scale=1.0,
        camera=["wrist=5", f"front = {lerobot}", "side=http://10.0.0.5/video?size=1", "usb=/dev/v4l/by-id/a=b"],
    )  # fmt: skip
    options = EnvironmentOptions(env="real", real=real, cameras=["wrist", "front"])
    options.check_environment(["lift"], "random")
    assert options.more_cameras == ("front", "side", "usb")
    arguments = real.env_arguments(None)
    assert arguments["cameras"] == ("wrist", "front", "side", "usb")
    assert arguments["camera"]["front"] == lerobot
    assert arguments["camera"]["usb"] == "/dev/v4l/by-id/a=b"
    alone = RealArmOptions(port="COM5", camera=["http://10.0.0.5/video?a=b"], speed_scale=1.0)
    assert alone.env_arguments(("wrist",))["camera"] == "http://10.0.0.5/video?a=b"


@pytest.mark.parametrize("camera", ["front={", 'front={"type": "bogus"}', "2nd=http://a/", "a=http://a b/"])
def test_cameras_that_are_refused(camera):
    with pytest.raises(OptionError):
        EnvironmentOptions(env="real", real=RealArmOptions(camera=[camera])).check_environment(["lift"], "random")


def test_the_twin_serves_its_cameras():
    process = subprocess.Popen(
        [sys.executable, "-m", "smolvla_gym", "twin", "--homed", "--cameras", "scene", "--fault", "camera_torn@1000"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        process.stdout.readline()
        name, url = process.stdout.readline().split()
        assert name == "scene"
        camera = MjpegCamera(MjpegConfig(url))
        with contextlib.closing(camera):
            camera.start()
            assert camera.calibrated
            camera.wait_newer(camera.latest().number, 10.0)
            process.stdin.write("camera_frozen on\n")
            process.stdin.flush()
            until(lambda: camera.age() > 0.5, 10.0)
        process.stdin.write("quit\n")
        process.stdin.flush()
        assert process.wait(20.0) == 0
    finally:
        process.kill()
        process.communicate()
