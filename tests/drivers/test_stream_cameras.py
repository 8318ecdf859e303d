"""USB cameras with a fake VideoCapture, video files, undistortion, and times of frames."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from smolvla_gym.drivers.cameras import uvc
from smolvla_gym.drivers.cameras.configs import ImageSettings, UvcConfig, VideoConfig
from smolvla_gym.drivers.cameras.discovery import measure_camera
from smolvla_gym.drivers.cameras.frame_times import StampClock
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.undistortion import undistort
from smolvla_gym.drivers.cameras.video import VideoCamera
from smolvla_gym.errors import DeviceError, OptionError
from tests.drivers.stream_rig import image, number_in, until

cv2 = pytest.importorskip("cv2")


# -- USB -------------------------------------------------------------------------------------------------------------


class FakeCapture:
    """A device that takes settings as a real one does, and numbers its images."""

    backend, there, offered = "V4L2", True, {(640, 480), (320, 240)}

    def __init__(self, device, backend=0):
        self.device, self.log, self.number, self.released = device, [], 0, False
        self.values = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FPS: 30.0}
        type(self).last = self

    def isOpened(self):  # noqa: N802
        return self.there

    def getBackendName(self):  # noqa: N802
        return self.backend

    def set(self, key, value):
        self.log.append(key)
        if key == cv2.CAP_PROP_FRAME_HEIGHT and (self.values[cv2.CAP_PROP_FRAME_WIDTH], value) not in self.offered:
            self.values[cv2.CAP_PROP_FRAME_WIDTH], value = 640.0, 480.0
        if key == cv2.CAP_PROP_EXPOSURE and value > 1000:
            return False
        self.values[key] = value
        return True

    def get(self, key):
        return self.values.get(key, 0.0)

    def read(self):
        time.sleep(0.02)
        if not self.there:
            return False, None
        self.number += 1
        self.values[cv2.CAP_PROP_POS_MSEC] = 1e3 * time.monotonic() - 5.0
        size = int(self.values[cv2.CAP_PROP_FRAME_HEIGHT]), int(self.values[cv2.CAP_PROP_FRAME_WIDTH])
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[...] = (10, 20, self.number % 256)  # blue, green, red
        return True, pixels

    def release(self):
        self.released = True


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "there", True)
    before = set(threading.enumerate())
    with contextlib.ExitStack() as stack:

        def make(device=0, **options):
            camera = uvc.UvcCamera(UvcConfig(device, **options))
            stack.callback(camera.close)
            camera.start()
            return camera

        yield make
    assert set(threading.enumerate()) <= before
    assert FakeCapture.last.released


def test_a_usb_camera(make):
    camera = make(image=ImageSettings(size=(320, 240), fps=30.0), fourcc="MJPG", exposure=100.0)
    frame = camera.wait_newer(3, 5.0)
    assert frame.pixels.shape == (240, 320, 3)
    assert frame.pixels[0, 0, 1:].tolist() == [20, 10]  # red, green, blue
    assert camera.age() < 1.0
    assert frame.hardware_time == pytest.approx(time.monotonic(), abs=1.0)
    log = FakeCapture.last.log
    assert log.index(cv2.CAP_PROP_FOURCC) < log.index(cv2.CAP_PROP_FRAME_WIDTH) < log.index(cv2.CAP_PROP_FPS)
    assert FakeCapture.last.values[cv2.CAP_PROP_AUTO_EXPOSURE] == 1.0
    assert FakeCapture.last.values[cv2.CAP_PROP_BUFFERSIZE] == 1.0


def test_a_turned_usb_camera(make):
    camera = make(image=ImageSettings(size=(480, 640), rotation=90))
    assert camera.latest().pixels.shape == (640, 480, 3)


def test_settings_that_it_does_not_take(make):
    for options in ({"image": ImageSettings(size=(1000, 100))}, {"exposure": 5000.0}):
        with pytest.raises(OptionError):
            make(**options)


def test_a_usb_camera_that_is_unplugged_returns(make, monkeypatch):
    camera = make()
    monkeypatch.setattr(FakeCapture, "there", False)
    until(lambda: camera.lost)
    assert "cannot be opened" in camera.trouble or "no images" in camera.trouble
    monkeypatch.setattr(FakeCapture, "there", True)
    until(lambda: not camera.lost and camera.age() < 0.25)
    assert camera.reconnects == 1


def test_no_usb_camera(make, monkeypatch):
    make()
    monkeypatch.setattr(FakeCapture, "there", False)
    with pytest.raises(DeviceError, match="smolvla-gym cameras"):
        make("/dev/video77")


def test_a_report(make):
    report = measure_camera(make(), 0.5)
    assert 10.0 < report.rate < 60.0
    assert report.age < 0.25
    assert report.pixels.shape == (480, 640, 3)


def test_the_list_of_linux(monkeypatch, tmp_path):
    """One path of each camera, a stable one where there is one, and no nodes of metadata."""
    for node, device in (("video0", "usb1"), ("video1", "usb1"), ("video2", "usb2"), ("video3", "usb2")):
        (tmp_path / "devices" / device).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/class/video4linux" / node).mkdir(parents=True)
        (tmp_path / "sys/class/video4linux" / node / "device").symlink_to(tmp_path / "devices" / device)
        (tmp_path / "dev/v4l/by-id").mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / node).touch()
    (tmp_path / "dev/v4l/by-id/usb-cam-video-index0").symlink_to("../../video0")
    (tmp_path / "dev/v4l/by-id/usb-cam-video-index1").symlink_to("../../video1")
    monkeypatch.setattr(uvc, "Path", lambda name: tmp_path / name.lstrip("/"))
    monkeypatch.setattr(uvc.platform, "system", lambda: "Linux")
    found = [str(Path(path).relative_to(tmp_path)) for path in uvc.list_devices()]
    assert found == ["dev/v4l/by-id/usb-cam-video-index0", "dev/video2"]


def test_the_list_elsewhere(make, monkeypatch):
    make()
    monkeypatch.setattr(uvc.platform, "system", lambda: "Windows")
    assert uvc.list_devices() == [0, 1, 2, 3, 4, 5]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    import av

    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 640, 480
        for number in range(10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image(number), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_file_is_played_again_and_again_at_its_rate(file):
    camera = VideoCamera(VideoConfig(str(file)))
    with contextlib.closing(camera):
        camera.start()
        first, seen = camera.latest(), []
        while len(seen) < 15:
            frame = camera.wait_newer(camera.latest().number, 5.0)
            seen.append(number_in(frame.pixels))
        assert number_in(first.pixels) == 0
        assert 0 in seen
        assert max(seen) == 9
        rate = (frame.number - first.number) / (frame.time - first.time)
        assert 5.0 < rate < 27.0
    assert not any("video" in thread.name for thread in threading.enumerate())


def test_what_is_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("concat\nfile '/etc/passwd'\n")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(DeviceError, match="cannot be opened"):
            VideoCamera(VideoConfig(str(tmp_path / name))).start()


def test_no_rtsp_camera():
    began = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        VideoCamera(VideoConfig("rtsp://user:secret@127.0.0.1:9/1")).start()
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 5.0


# -- undistortion ------------------------------------------------------------------------------------------------------


def test_undistortion_puts_points_where_a_pinhole_camera_has_them():
    model, distortion = Intrinsics(640, 480, 430.0, 430.0, 320.0, 240.0), (-0.2, 0.05, 0.001, -0.001, 0.0)
    matrix = np.array([[430.0, 0, 320.0], [0, 430.0, 240.0], [0, 0, 1]])
    points = np.array([[x, y, 1.0] for x in (-0.5, 0.0, 0.5) for y in (-0.4, 0.0, 0.4)])
    seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(distortion))
    pixels = np.zeros((480, 640, 3), np.uint8)
    for x, y in seen.reshape(-1, 2):
        cv2.circle(pixels, (round(x * 16), round(y * 16)), 4 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    straight = undistort(pixels, model, distortion)[..., 0].astype(float)
    for x, y, _ in points:
        u, v = 430.0 * x + 320.0, 430.0 * y + 240.0
        rows, columns = np.mgrid[round(v) - 12 : round(v) + 13, round(u) - 12 : round(u) + 13]
        weight = straight[rows, columns]
        assert (weight * columns).sum() / weight.sum() == pytest.approx(u, abs=0.5)
        assert (weight * rows).sum() / weight.sum() == pytest.approx(v, abs=0.5)


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_frame_that_was_held_up_counts_as_old():
    clock = StampClock()
    delays = [0.010, 0.005, 0.300, 0.005, 0.200]
    stamps = [1000.0 + 0.03 * k for k in range(len(delays))]
    arrivals = [stamp - 990.0 + delay for stamp, delay in zip(stamps, delays, strict=True)]
    taken = [clock.taken(arrival, stamp) for arrival, stamp in zip(arrivals, stamps, strict=True)]
    late = [arrival - moment for arrival, moment in zip(arrivals, taken, strict=True)]
    assert late == pytest.approx([0.0, 0.0, 0.295, 0.0, 0.195], abs=1e-3)


def test_a_clock_that_is_set_back_begins_anew():
    clock = StampClock()
    assert clock.taken(1.0, 500.0) == 1.0
    assert clock.taken(2.0, 499.0) == 2.0
    assert clock.taken(3.0, float("nan")) == 3.0
    assert clock.taken(4.0, None) == 4.0
    assert clock.taken(5.0, 1e11) == 5.0  # never newer than its arrival
    assert clock.taken(6.0, 1e11 + 0.5) == pytest.approx(5.5, abs=1e-3)
