"""Configurations of cameras: LeRobot's dictionaries and objects as they are, addresses, and what is refused."""

from __future__ import annotations

import pytest

from smolvla_gym.drivers.cameras.configs import (
    ImageSettings,
    MjpegConfig,
    RealSenseConfig,
    UvcConfig,
    VideoConfig,
    check_camera_config,
    check_camera_name,
    is_camera_config,
    shown_url,
)
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.errors import OptionError

MODEL = {"width": 640, "height": 480, "fx": 500.0, "fy": 501.0, "ppx": 320.0, "ppy": 240.0}
OPENCV = {
    "type": "opencv", "index_or_path": "/dev/v4l/by-id/usb-cam-video-index0", "width": 640, "height": 480, "fps": 30,
    "color_mode": "rgb", "rotation": 180, "warmup_s": 1, "fourcc": "MJPG", "backend": 200,
}  # fmt: skip
REALSENSE = {
    "type": "intelrealsense", "serial_number_or_name": "405000000001", "width": 640, "height": 480, "fps": 30,
    "color_mode": "rgb", "use_depth": True, "rotation": 0, "warmup_s": 1, "exposure": 10000, "gain": 32,
    "white_balance": 4600,
}  # fmt: skip
CASES = [
    (OPENCV, UvcConfig(OPENCV["index_or_path"], ImageSettings((640, 480), 30.0, 180), "MJPG", 200)),
    ({"type": "opencv", "index_or_path": 0}, UvcConfig(0)),
    ({"type": "opencv", "index_or_path": "2", "exposure": -6}, UvcConfig(2, exposure=-6.0)),
    ({"type": "opencv", "index_or_path": "http:/10.0.0.5/stream"}, MjpegConfig("http://10.0.0.5/stream")),
    ({"type": "opencv", "index_or_path": "rtsp://10.0.0.5/1", "fps": None}, VideoConfig("rtsp://10.0.0.5/1")),
    (
        REALSENSE,
        RealSenseConfig("405000000001", CameraSettings((640, 480), 30, False, 10000, 32, 4600)),
    ),
    ({"type": "intelrealsense", "serial_number_or_name": 5}, RealSenseConfig("000000000005", CameraSettings())),
    (
        {"type": "intelrealsense", "serial_number_or_name": "5", "width": 480, "height": 640, "rotation": 90},
        RealSenseConfig("5", CameraSettings((640, 480)), 90),
    ),
    ({"type": "mjpeg", "url": "http://cam:8080/a?b=c", "token": "x"}, MjpegConfig("http://cam:8080/a?b=c", token="x")),
    ({"type": "rtsp", "url": "rtsps://u:p@cam/1"}, VideoConfig("rtsps://u:p@cam/1")),
    ({"type": "file", "path": "a.mp4", "color_mode": "bgr"}, VideoConfig("a.mp4", ImageSettings(bgr=True))),
    (
        {"type": "mjpeg", "url": "http://cam/", "intrinsics": MODEL | {"distortion": [0.1, 0, 0, 0]}},
        MjpegConfig(
            "http://cam/", ImageSettings(intrinsics=Intrinsics(**MODEL), distortion=(0.1, 0.0, 0.0, 0.0))
        ),
    ),
    ("http://10.0.0.5/stream?a=b", MjpegConfig("http://10.0.0.5/stream?a=b")),
    ("rtsp://10.0.0.5/1", VideoConfig("rtsp://10.0.0.5/1")),
    ("/dev/video0", UvcConfig("/dev/video0")),
    ('{"type": "opencv", "index_or_path": 1}', UvcConfig(1)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "config"), CASES, ids=range(len(CASES)))
def test_a_configuration(given, config):
    assert is_camera_config(given)
    assert check_camera_config("camera", given) == config


def test_objects_of_lerobot():
    realsense = pytest.importorskip("lerobot.cameras.realsense.configuration_realsense")
    from lerobot.cameras.opencv.configuration_opencv import OpenCVCameraConfig

    one = OpenCVCameraConfig(index_or_path=0, fps=30, width=640, height=480, rotation=90, fourcc="MJPG")
    assert check_camera_config("camera", one) == UvcConfig(0, ImageSettings((640, 480), 30.0, 90), "MJPG")
    other = realsense.RealSenseCameraConfig("405000000001", fps=30, width=640, height=480)
    assert check_camera_config("camera", other) == RealSenseConfig("405000000001", CameraSettings())
    assert is_camera_config(one)


@pytest.mark.parametrize("serial", ["405000000001", 405000000001, "7", None, "D405"])
def test_a_serial_number_is_no_configuration(serial):
    assert not is_camera_config(serial)


@pytest.mark.parametrize(
    "given",
    [
        {}, {"type": "zmq", "server_address": "a"}, {"type": "opencv"}, {"type": "opencv", "index_or_path": -1},
        {"type": "opencv", "index_or_path": 0, "bogus": 1}, {"type": "opencv", "index_or_path": 0, "width": 640},
        {"type": "opencv", "index_or_path": 0, "rotation": 45}, {"type": "opencv", "index_or_path": 0, "fps": 0},
        {"type": "opencv", "index_or_path": 0, "fourcc": "MJPEG"}, {"type": "opencv", "index_or_path": True},
        {"type": "opencv", "index_or_path": 0, "exposure": "long"}, {"type": "mjpeg", "url": "ftp://a/b"},
        {"type": "mjpeg", "url": "http://"}, {"type": "mjpeg", "url": "http://a b/"},
        {"type": "mjpeg", "url": "http://a/\r\nX: y"}, {"type": "mjpeg", "url": "http://a:99999/"},
        {"type": "mjpeg", "url": "http://a/", "token": "two words"}, {"type": "rtsp", "url": "http://a/"},
        {"type": "file", "path": ""}, {"type": "intelrealsense", "serial_number_or_name": "1", "rotation": 45},
        {"type": "intelrealsense", "serial_number_or_name": "1", "use_rgb": False},
        {"type": "mjpeg", "url": "http://a/", "intrinsics": {"fx": 1}},
        {"type": "mjpeg", "url": "http://a/", "intrinsics": MODEL | {"fx": 0}},
        {"type": "mjpeg", "url": "http://a/", "intrinsics": MODEL | {"distortion": [1.0]}},
        "{", '{"type": "opencv", "type": "file"}', "http://", 5, ["opencv"],
    ],
    ids=range(29),
)  # fmt: skip
def test_what_is_refused(given):
    with pytest.raises(OptionError) as caught:
        check_camera_config("camera", given)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["wrist", "front-2", "Side_cam"])
def test_names(name):
    assert check_camera_name(name) == name


@pytest.mark.parametrize("name", ["", "2nd", "a b", "a.b", "x" * 33, "größe", 5])
def test_names_that_are_refused(name):
    with pytest.raises(OptionError):
        check_camera_name(name)


def test_a_token_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SMOLVLA_GYM_TOKEN", "of-the-policy-server")
    (tmp_path / "token").write_text("secret\n")
    given = {"type": "mjpeg", "url": "http://cam/"}
    assert check_camera_config("camera", given).token is None
    assert check_camera_config("camera", given | {"token_file": str(tmp_path / "token")}).token == "secret"
    for name in ("missing", ""):
        with pytest.raises(OptionError):
            check_camera_config("camera", given | {"token_file": name and str(tmp_path / name)})


def test_an_address_is_shown_without_secrets():
    assert shown_url("http://user:secret@cam:80/a?token=secret") == "http://cam:80/a"
    assert "secret" not in repr(MjpegConfig("http://cam/", token="secret"))
