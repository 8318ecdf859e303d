"""The MJPEG reader against a server on the loopback: real bytes, and every way in which they go wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import numpy as np
import pytest

from smolvla_gym.drivers.cameras.configs import ImageSettings, MjpegConfig
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing
from smolvla_gym.drivers.cameras.jpeg import encode_jpeg
from smolvla_gym.drivers.cameras.mjpeg_server import JpegChannel, MjpegServer
from smolvla_gym.drivers.cameras.mjpeg_source import MjpegCamera
from smolvla_gym.errors import DeviceError, OptionError
from tests.drivers.stream_rig import Sender, image, number_in, until

STALE = 0.25


@pytest.fixture
def stack():
    before = set(threading.enumerate())
    with contextlib.ExitStack() as stack:
        yield stack
    left = set(threading.enumerate()) - before
    assert not left, f"threads survived close(): {left}"


@pytest.fixture
def sender(stack):
    sender = Sender()
    stack.callback(sender.close)
    return sender


@pytest.fixture
def camera(stack, sender):
    camera = MjpegCamera(MjpegConfig(sender.url))
    stack.callback(camera.close)
    camera.start()
    return camera


def fresh(camera, sender):
    """Return a frame that was taken from now on."""
    now = time.monotonic()
    until(lambda: (frame := camera.latest()) is not None and number_in(frame.pixels) / 1e6 > now)
    return camera.latest()


@pytest.mark.realtime
def test_a_consumer_at_10_hz_gets_frames_of_at_most_50_ms(camera, sender):
    fresh(camera, sender)
    true, stated = [], []
    for _ in range(30):
        time.sleep(0.1)
        frame, now = camera.latest(), time.monotonic()
        true.append(now - number_in(frame.pixels) / 1e6)
        stated.append(now - frame.time)
    print(f"age: median {1e3 * np.median(true):.0f} ms, 95 % {1e3 * np.percentile(true, 95):.0f} ms")
    assert np.median(true) < 0.05
    # The stated age leaves out the shortest way that a frame took.
    assert np.abs(np.array(true) - stated).max() < 0.05
    assert frame.hardware_time == pytest.approx(number_in(frame.pixels) / 1e6, abs=1e-5)


def test_frames_are_numbered_and_framed(camera, sender):
    first = camera.latest()
    second = camera.wait_newer(first.number, 5.0)
    assert first.pixels.shape == (480, 640, 3)
    assert second.number > first.number >= 1
    assert second.time > first.time
    assert not camera.calibrated
    camera.framing = Framing(camera.intrinsics, camera.intrinsics, (64, 64))
    until(lambda: camera.latest().pixels.shape == (64, 64, 3))


def test_a_frozen_camera_grows_old_and_returns(camera, sender):
    fresh(camera, sender)
    sender.frozen = True
    until(lambda: camera.age() > STALE)
    assert not camera.lost
    sender.frozen = False
    fresh(camera, sender)
    assert camera.age() < STALE


def test_a_camera_that_sends_the_same_image_again_is_frozen(camera, sender):
    fresh(camera, sender)
    sender.frozen = True
    time.sleep(0.05)
    _, taken, jpeg = sender.channel.wait_newer(0, 1.0)
    for _ in range(15):
        sender.channel.publish(jpeg, taken)
        time.sleep(0.02)
    assert camera.age() > STALE


def test_a_disconnected_camera_is_lost_at_once_and_returns(camera, sender):
    fresh(camera, sender)
    sender.channel.connected = False
    began = time.monotonic()
    until(lambda: camera.lost)
    assert time.monotonic() - began < 2.0
    until(lambda: "503" in (camera.trouble or ""))
    with pytest.raises(DeviceError, match="503"):
        camera.wait_newer(camera.latest().number, 0.1)
    sender.channel.connected = True
    fresh(camera, sender)
    assert not camera.lost
    assert camera.reconnects >= 1


def test_a_server_that_ends_and_begins_anew(stack):
    first = Sender()
    camera = MjpegCamera(MjpegConfig(first.url))
    stack.callback(camera.close)
    camera.start()
    number = fresh(camera, first).number
    first.close()
    until(lambda: camera.lost)
    second = Sender(port=int(first.url.split(":")[2].partition("/")[0]))
    stack.callback(second.close)
    assert fresh(camera, second).number > number
    assert not camera.lost


def test_torn_images_are_dropped(camera, sender):
    fresh(camera, sender)
    sender.change = lambda jpeg: jpeg[: len(jpeg) // 2]
    until(lambda: camera.age() > STALE)
    assert "no complete JPEG" in camera.trouble
    assert camera.latest().pixels.shape == (480, 640, 3)
    sender.change = lambda jpeg: jpeg
    fresh(camera, sender)
    assert camera.trouble is None


def test_images_of_another_size_are_dropped(camera, sender):
    fresh(camera, sender)
    sender.size = (240, 640)
    until(lambda: camera.age() > STALE)
    assert "640x240 pixels instead of 640x480" in camera.trouble
    sender.size = (480, 640)
    fresh(camera, sender)


def test_the_expected_size(stack, sender):
    camera = MjpegCamera(MjpegConfig(sender.url, ImageSettings(size=(320, 240))))
    stack.callback(camera.close)
    with pytest.raises(OptionError, match="sends images of 640x480"):
        camera.start()


def test_rotation_and_order_of_channels(stack):
    channel = JpegChannel()
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:, 0] = 250  # the right half is red
    server = MjpegServer({"wrist": channel})
    stack.callback(server.close)
    channel.publish(encode_jpeg(pixels), 1.0)
    camera = MjpegCamera(MjpegConfig(server.url("wrist"), ImageSettings(size=(32, 64), rotation=90, bgr=True)))
    stack.callback(camera.close)
    camera.start()
    frame = camera.latest().pixels
    assert frame.shape == (64, 32, 3)
    assert frame[48:, :, 2].mean() > 200  # clockwise the right half comes to the bottom
    assert frame[:16].mean() < 20


def test_the_server_states_the_intrinsics(stack):
    channel = JpegChannel(D405_COLOUR)
    server = MjpegServer({"wrist": channel})
    stack.callback(server.close)
    channel.publish(encode_jpeg(image(1)), 1.0)
    camera = MjpegCamera(MjpegConfig(server.url("wrist")))
    stack.callback(camera.close)
    camera.start()
    assert camera.calibrated
    assert camera.intrinsics == D405_COLOUR


# -- connecting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "token", "word"), [("wrist", None, "401"), ("wrist", "wrong", "401"), ("other", "secret", "404")]
)
def test_what_the_server_refuses(stack, path, token, word):
    sender = Sender(token="secret")
    stack.callback(sender.close)
    camera = MjpegCamera(MjpegConfig(sender.url.replace("wrist", path), token=token))
    stack.callback(camera.close)
    with pytest.raises(DeviceError, match=word) as caught:
        camera.start()
    assert "secret" not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_with_the_token(stack):
    sender = Sender(token="secret")
    stack.callback(sender.close)
    camera = MjpegCamera(MjpegConfig(sender.url, token="secret"))
    stack.callback(camera.close)
    camera.start()
    fresh(camera, sender)


def test_nothing_is_there(stack):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    camera = MjpegCamera(MjpegConfig(f"http://user:secret@127.0.0.1:{port}/x?key=secret"))
    stack.callback(camera.close)
    with pytest.raises(DeviceError) as caught:
        camera.start()
    assert "secret" not in str(caught.value)


def test_a_silent_server_does_not_hold_the_program(stack):
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    camera = MjpegCamera(MjpegConfig(f"http://127.0.0.1:{listening.getsockname()[1]}/"))
    stack.callback(camera.close)
    began = time.monotonic()
    with pytest.raises(DeviceError, match="not answered"):
        camera.start()
    assert time.monotonic() - began < 5.0


# -- streams of other makers -------------------------------------------------------------------------------------------

JPEG = encode_jpeg(image(7))


class Raw:
    """A server that sends given bytes to each client, the last ones again and again."""

    def __init__(self, head, parts, pause=0.02):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/video"
        self.head, self.parts, self.pause, self.running = head, parts, pause, True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.listening.settimeout(0.05)
        while self.running:
            with contextlib.suppress(OSError):
                connection, _ = self.listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(self.head)
                    for part in self.parts():
                        if not self.running:
                            break
                        connection.sendall(part)
                        time.sleep(self.pause)

    def close(self):
        self.running = False
        self.thread.join()
        self.listening.close()


def numbered(make):
    def parts():
        number = 0
        while True:
            number += 1
            yield make(encode_jpeg(image(number)))

    return parts


HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary="
STREAMS = {
    "no length": (HEAD + b"B\r\n\r\n", lambda jpeg: b"--B\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n"),
    "dashes in the name": (
        HEAD + b"--B\r\n\r\n", lambda jpeg: b"--B\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
    ),
    "doubled dashes, quoted": (
        HEAD + b'"--B"\r\n\r\n', lambda jpeg: b"----B\r\nContent-length:%d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
    ),
    "no line break behind": (
        HEAD + b"B\r\n\r\n", lambda jpeg: b"--B\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: multipart/x-mixed-replace;boundary=B\r\n\r\n",
        lambda jpeg: b"".join(
            b"%x\r\n%b\r\n" % (len(piece), piece)
            for piece in (b"\r\n--B\r\n", b"Content-Length: %d\r\n\r\n" % len(jpeg), jpeg)
        ),
    ),
    "bare line feeds": (HEAD + b"B\n\n", lambda jpeg: b"--B\nContent-Length: %d\n\n" % len(jpeg) + jpeg + b"\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_other_makers(stack, name):
    head, make = STREAMS[name]
    server = Raw(head, numbered(make))
    stack.callback(server.close)
    camera = MjpegCamera(MjpegConfig(server.url))
    stack.callback(camera.close)
    camera.start()
    first = camera.latest()
    for _ in range(5):
        camera.wait_newer(camera.latest().number, 5.0)
    assert camera.latest().hardware_time is None
    assert number_in(camera.latest().pixels) - number_in(first.pixels) >= 5
    assert camera.reconnects == 0


def test_equal_images_without_time_stamps_are_a_frozen_camera(stack):
    head, make = STREAMS["no length"]
    server = Raw(head, lambda: iter([make(JPEG)] * 1000))
    stack.callback(server.close)
    camera = MjpegCamera(MjpegConfig(server.url))
    stack.callback(camera.close)
    camera.start()
    until(lambda: camera.age() > STALE)


def test_a_part_with_a_wrong_length_opens_the_stream_again(stack):
    head, make = STREAMS["dashes in the name"]

    def parts():
        yield make(JPEG)
        for number in range(1000):
            jpeg = encode_jpeg(image(number))
            yield make(jpeg)[:-100] if number == 5 else make(jpeg)

    server = Raw(head, parts)
    stack.callback(server.close)
    camera = MjpegCamera(MjpegConfig(server.url))
    stack.callback(camera.close)
    camera.start()
    until(lambda: camera.reconnects >= 1 and camera.age() < STALE)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\x00" * 100, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\n" + b"x" * 100_000, HEAD + b"\r\n\r\n", HEAD + b"B\r\n\r\n" + b"--B\r\n" + b"A" * 100_000,
        HEAD + b"B\r\n\r\n--B\r\nContent-Length: 99999999999\r\n\r\n",
        HEAD + b"B\r\n\r\n--B\r\nContent-Length: -1\r\n\r\n", HEAD + b"B\r\n\r\n" + b"\r\n" * 1000,
        HEAD + b"B\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", HEAD + b"B\r\n\r\n--B--\r\n\r\n",
    ],
    ids=range(14),
)  # fmt: skip
def test_an_answer_that_is_no_stream(stack, answer):
    server = Raw(answer, lambda: iter(()))
    stack.callback(server.close)
    camera = MjpegCamera(MjpegConfig(server.url))
    stack.callback(camera.close)
    with pytest.raises(DeviceError) as caught:
        camera.start()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
