"""What the tests of streams share: images with a number in them, and a thread that sends them."""

from __future__ import annotations

import threading
import time

import numpy as np

from smolvla_gym.drivers.cameras.jpeg import encode_jpeg
from smolvla_gym.drivers.cameras.mjpeg_server import JpegChannel, MjpegServer

BITS, BLOCK = 40, 16
NOISE = np.random.default_rng(0).integers(60, 190, (30, 40, 3), np.uint8)


def image(number: int, size=(480, 640)) -> np.ndarray:
    """An image whose first rows have a number, 40 bits."""
    pixels = np.array(np.kron(NOISE, np.ones((16, 16, 1), np.uint8))[: size[0], : size[1]])
    for bit in range(BITS):
        pixels[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * ((number >> bit) & 1)
    return pixels


def number_in(pixels: np.ndarray) -> int:
    """The number in an image of :func:`image`."""
    return sum(1 << bit for bit in range(BITS) if pixels[BLOCK // 2, bit * BLOCK + BLOCK // 2, 1] > 127)


def until(condition, timeout=5.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


class Sender:
    """Sends images at a rate over a server; their number is the time in us at which they were taken."""

    def __init__(self, fps=30.0, name="wrist", **options):
        self.channel = JpegChannel()
        self.fps, self.running, self.frozen, self.change = fps, True, False, lambda jpeg: jpeg
        self.size = (480, 640)
        self.server = MjpegServer({name: self.channel}, **options)
        self.url = self.server.url(name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        due = time.monotonic()
        while self.running:
            if not self.frozen:
                taken = time.monotonic()
                jpeg = encode_jpeg(image(int(taken * 1e6), self.size))
                self.channel.publish(self.change(jpeg), taken)
            due = max(due + 1 / self.fps, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def close(self):
        self.running = False
        self._thread.join()
        self.server.close()
