"""A virtual camera: frames of a render function, by a thread or one by one, with noise and injected faults."""

from __future__ import annotations

import abc
import atexit
import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.errors import DeviceError
from smolvla_gym.twin.faults import Faults

REALSENSE, MJPEG = "realsense", "mjpeg"
TRANSPORTS: Final = (REALSENSE, MJPEG)
"""How drivers reach the cameras: as devices inside librealsense, or as MJPEG over HTTP on the loopback."""

Render = Callable[[], tuple[NDArray[np.uint8], NDArray[np.float32] | None]]
"""Renders the view of a camera: colour, uint8, shape (H, W, 3), and the distance in m along the optical axis, float32,
shape (H, W), as its depth intrinsics see it, or None."""


class Noise:
    """Noise of an image sensor."""

    def __init__(self, deviation: float, seed: int) -> None:
        """Prepare the noise.

        Args:
            deviation: Standard deviation in grey levels; 0 adds nothing.
            seed: Seed of the noise.
        """
        self._deviation, self._seed = deviation, seed
        self._bank: NDArray[np.int16] | None = None
        self._rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        """Make the noise of the images to come depend on a seed alone."""
        self._rng = np.random.default_rng(seed)

    def added(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a image with noise, of the same shape."""
        if self._deviation <= 0.0:
            return pixels
        # New noise for each pixel of each frame takes longer than rendering the image: each frame gets another part of
        # the same noise.
        if self._bank is None or self._bank.size != 2 * pixels.size:
            samples = np.random.default_rng(self._seed).standard_normal(2 * pixels.size, np.float32)
            self._bank = np.rint(self._deviation * samples).astype(np.int16)
        start = int(self._rng.integers(pixels.size))
        noise = self._bank[start : start + pixels.size].reshape(pixels.shape)
        noisy = pixels + noise
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


class VirtualCamera(abc.ABC):
    """One virtual camera.

    Its owner either calls :meth:`push` for each frame, in lockstep, or lets a thread do it with :meth:`start`.

    Attributes:
        fps: Frames a second that the thread delivers; may be changed at any time.
        frozen: While True the last frame is delivered over and over, with the same number.
        number: Number of the last frame.
        name: Name of the thread.
    """

    def __init__(
        self,
        render: Render,
        *,
        name: str,
        noise: float = 1.0,
        seed: int = 0,
        faults: Faults | None = None,
        on_start: Callable[[], object] = request_background_scheduling,
    ) -> None:
        """Prepare the camera; it is not plugged in yet.

        Args:
            render: Renders its view. Called by the thread of :meth:`start`, or by :meth:`push`.
            name: Name of the thread.
            noise: Standard deviation of the noise of the pixels in grey levels.
            seed: Seed of the noise.
            faults: The injected faults; read before each frame.
            on_start: Called by the thread of :meth:`start` first. A real camera needs no processor of the
                computer for its images, so a virtual one runs in the background.
        """
        self.fps: float = 30.0
        self.frozen: bool = False
        self.number: int = 0
        self.name: str = name
        self._render, self._on_start, self._faults = render, on_start, faults
        self._noise = Noise(noise, seed)
        self._images: tuple[NDArray[np.uint8], NDArray[np.float32] | None] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def reseed(self, seed: int) -> None:
        """Make the noise of the frames to come depend on a seed alone."""
        self._noise.reseed(seed)

    # -- frames ----------------------------------------------------------------------------------------------------

    def push(self) -> int:
        """Render a frame and deliver it to its readers.

        Returns:
            The frame's number.
        """
        self._follow_faults()
        if self._images is None or not self.frozen:
            pixels, distance = self._render()
            self._images = self._noise.added(pixels), distance
            self.number += 1
        self._deliver(*self._images)
        return self.number

    @abc.abstractmethod
    def _deliver(self, pixels: NDArray[np.uint8], distance: NDArray[np.float32] | None) -> None:
        """Deliver the images of the frame :attr:`number` to the readers, if the camera is plugged in.

        Args:
            pixels: Colour, shape (H, W, 3).
            distance: Distance in m, shape (H, W), or None.
        """

    def _follow_faults(self) -> None:
        if self._faults is None:
            return
        self.frozen = self._faults.camera_frozen
        if self._faults.camera_unplugged and self.is_plugged:
            self.unplug()
        elif not self._faults.camera_unplugged and not self.is_plugged:
            self.replug()

    def start(self, fps: float = 30.0) -> None:
        """Have a thread deliver frames.

        Args:
            fps: Frames a second.
        """
        self.stop()
        self.fps = fps
        self._stopping.clear()
        self._thread = threading.Thread(target=self._feed, name=self.name, daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End that thread; doing it twice does no harm."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            atexit.unregister(self.stop)

    def _feed(self) -> None:
        self._on_start()
        try:
            self.push()
            # Modules that rendered the first image may clean up at exit too: the last to register is the first to go.
            atexit.register(self.stop)
            due = time.monotonic()
            while True:
                # A late frame is not followed by a burst.
                fps = self.fps if self._faults is None else self._faults.camera_fps or self.fps
                due = max(due + 1.0 / fps, time.monotonic())
                if self._stopping.wait(due - time.monotonic()):
                    break
                self.push()
        except DeviceError:
            pass  # the render worker is gone: no new images come

    # -- the plug --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def unplug(self) -> None:
        """Pull the plug: no frame arrives any more, and no new reader finds the camera."""

    @abc.abstractmethod
    def replug(self) -> None:
        """Put the plug in (again)."""

    @property
    @abc.abstractmethod
    def is_plugged(self) -> bool:
        """Whether the camera is plugged in."""
