"""Which cameras there are, and what is said where one is not there or librealsense itself is not."""

import contextlib
import importlib
import time

import numpy as np
import pytest

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.librealsense import CameraInfo, list_cameras
from smolvla_gym.drivers.cameras.realsense import RealSenseCamera
from smolvla_gym.errors import DeviceError, MissingExtraError
from smolvla_gym.twin.camera_model import d435
from smolvla_gym.twin.virtual_realsense import VirtualBus, VirtualRealSense

SCENE = d435(Intrinsics.from_fovy(38.0, 640, 480))


@pytest.fixture(scope="module")
def pair():
    red, blue = np.zeros((2, 480, 640, 3), np.uint8)
    red[..., 0] = blue[..., 2] = 255
    wrist = VirtualRealSense(lambda: (red, None), serial="A1", noise=0.0)
    scene = VirtualRealSense(lambda: (blue, None), serial="B2", model=SCENE, noise=0.0)
    return wrist, scene, VirtualBus([wrist, scene])


def test_cameras_are_listed(pair):
    expected = [CameraInfo("A1", "Intel RealSense D405", "3.2"), CameraInfo("B2", "Intel RealSense D435", "3.2")]
    assert list_cameras(pair[2].context_factory) == expected


def test_without_a_camera_none_is_listed_and_the_error_comes_at_once():
    assert list_cameras() == []
    begin = time.monotonic()
    with pytest.raises(DeviceError, match=r"No RealSense camera was found; connected: none.*WSL2.*camera=\"twin\""):
        RealSenseCamera().start()
    assert time.monotonic() - begin < 1.0


def test_two_cameras_are_distinguished_by_their_serials(pair):
    wrist, scene, bus = pair
    with contextlib.ExitStack() as stack:
        cameras = {}
        for serial in ("A1", "B2"):
            cameras[serial] = RealSenseCamera(serial, context_factory=bus.context_factory)
            stack.callback(cameras[serial].close)
            cameras[serial].start()
        numbers = wrist.push(), scene.push()
        assert cameras["A1"].wait_newer(numbers[0] - 1, 2.0).pixels[0, 0].tolist() == [255, 0, 0]
        assert cameras["B2"].wait_newer(numbers[1] - 1, 2.0).pixels[0, 0].tolist() == [0, 0, 255]
        assert cameras["B2"].intrinsics.fx == pytest.approx(SCENE.colour[0].fx)


def test_a_wrong_serial_and_a_missing_one_name_the_cameras_there_are(pair):
    factory = pair[2].context_factory
    with pytest.raises(DeviceError, match=r"with the serial 'C3' was found; connected: .*D405 \(serial A1\)"):
        RealSenseCamera("C3", context_factory=factory).start()
    with pytest.raises(DeviceError, match=r"choose one by its serial: .*A1.*B2"):
        RealSenseCamera(context_factory=factory).start()


@pytest.mark.parametrize(
    ("failure", "error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'pyrealsense2'"), MissingExtraError, r"extra .real."),
        (ImportError("libusb-1.0.so.0: cannot open shared object file"), DeviceError, "apt-get install libusb"),
        (ImportError("GLIBC_2.99 not found"), DeviceError, "GLIBC"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(monkeypatch, failure, error, remedy):
    def import_module(name):
        raise failure if name == "pyrealsense2" else ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(error, match=remedy):
        RealSenseCamera().start()
