"""A virtual RealSense camera: a librealsense software device with the images of a render function.

Everything above it is librealsense itself, so a driver meets profiles, options, frames, timeouts and absence as with a
real camera on a USB port.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.librealsense import load
from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.errors import DeviceError
from smolvla_gym.twin.camera_model import D405, CameraModel, SoftwareDevice, d435
from smolvla_gym.twin.faults import Faults

SERIALS: Final = {"wrist": "405000000001", "scene": "435000000002"}
"""Serial numbers of the twin's cameras by name."""

# A D435 at 640x480 sees more than the scene camera of the simulation, so the same view can be cut out.
MODELS: Final[Mapping[str, CameraModel]] = {"wrist": D405, "scene": d435(Intrinsics.from_fovy(42.5, 640, 480))}
"""Models of the twin's cameras by name."""

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


class VirtualRealSense:
    """One virtual camera.

    Its owner either calls :meth:`push` for each frame, in lockstep, or lets a thread do it with :meth:`start`.

    Attributes:
        fps: Frames a second that the thread delivers; may be changed at any time.
        frozen: While True the last frame is delivered over and over, with the same number.
        number: Number of the last frame.
    """

    def __init__(
        self,
        render: Render,
        *,
        serial: str = "TWIN0001",
        model: CameraModel = D405,
        usb_type: str = "3.2",
        noise: float = 1.0,
        seed: int = 0,
        faults: Faults | None = None,
        on_start: Callable[[], object] = request_background_scheduling,
    ) -> None:
        """Plug the camera in.

        Args:
            render: Renders its view. Called by the thread of :meth:`start`, or by :meth:`push`.
            serial: Serial number.
            model: Model of the camera.
            usb_type: USB version of the connection.
            noise: Standard deviation of the noise of the pixels in grey levels.
            seed: Seed of the noise.
            faults: The injected faults; read before each frame.
            on_start: Called by the thread of :meth:`start` first. A real camera needs no processor of the
                computer for its images, so a virtual one runs in the background.
        """
        self.fps: float = 30.0
        self.frozen: bool = False
        self.number: int = 0
        self.serial: str = serial
        self.model: CameraModel = model
        self.usb_type: str = usb_type
        self._render, self._on_start, self._faults = render, on_start, faults
        self._noise = Noise(noise, seed)
        self._rs = load()
        self._images: tuple[NDArray[np.uint8], NDArray[np.uint16] | None] | None = None
        self._lock = threading.Lock()
        self._device: SoftwareDevice | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.replug()

    def reseed(self, seed: int) -> None:
        """Make the noise of the frames to come depend on a seed alone."""
        self._noise.reseed(seed)

    # -- frames ----------------------------------------------------------------------------------------------------

    def push(self) -> int:
        """Render a frame and deliver it to the streams that are read.

        Returns:
            The frame's number.
        """
        self._follow_faults()
        if self._images is None or not self.frozen:
            pixels, distance = self._render()
            depth = None if distance is None else self.model.raw_depth(distance)
            self._images = self._noise.added(pixels), depth
            self.number += 1
        with self._lock:
            if self._device is not None:
                self._device.deliver(self.number, *self._images)
        return self.number

    def _follow_faults(self) -> None:
        if self._faults is None:
            return
        self.frozen = self._faults.camera_frozen
        if self._faults.camera_unplugged and self.plugged is not None:
            self.unplug()
        elif not self._faults.camera_unplugged and self.plugged is None:
            self.replug()

    def start(self, fps: float = 30.0) -> None:
        """Have a thread deliver frames.

        Args:
            fps: Frames a second.
        """
        self.stop()
        self.fps = fps
        self._stopping.clear()
        self._thread = threading.Thread(target=self._feed, name=f"virtual RealSense {self.serial}", daemon=True)
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

    def unplug(self) -> None:
        """Pull the plug: no frame arrives any more, and no new context finds the camera."""
        with self._lock:
            self._device = None

    def replug(self) -> None:
        """Put the plug in (again)."""
        with self._lock:
            self._device = SoftwareDevice(self._rs, self.model, self.serial, self.usb_type)

    @property
    def plugged(self) -> SoftwareDevice | None:
        """Return the camera inside librealsense; None while it is unplugged."""
        return self._device

    def context_factory(self) -> Any:
        """Return a new librealsense context with this camera alone."""
        return VirtualBus([self]).context_factory()


def camera_size(name: str) -> tuple[int, int]:
    """Return height and width in px of the images of one of the twin's cameras."""
    colour = MODELS[name].colour[0]
    return colour.height, colour.width


def named_camera(name: str, render: Render, **options: Any) -> VirtualRealSense:
    """Make one of the twin's cameras.

    Args:
        name: ``"wrist"`` or ``"scene"``.
        render: Renders its view.
        **options: Those of :class:`VirtualRealSense`, such as ``noise``.
    """
    return VirtualRealSense(render, serial=SERIALS[name], model=MODELS[name], **options)


class VirtualBus:
    """Virtual cameras on one computer."""

    def __init__(self, cameras: Sequence[VirtualRealSense]) -> None:
        """Make a bus of cameras."""
        self._cameras = tuple(cameras)

    def context_factory(self) -> Any:
        """Return a new librealsense context with the cameras that are plugged in."""
        context = load().context()
        # A context holds software devices weakly and forgets them at once. The event of its arrival keeps it there,
        # and the device itself must not go before the context either. Both would keep the context alive in turn, so
        # they are dropped when its owner drops it.
        kept: list[Any] = []
        arrived = threading.Semaphore(0)

        def keep(event: Any) -> None:
            kept.append(event)
            arrived.release()

        context.set_devices_changed_callback(keep)
        weakref.finalize(context, kept.clear)
        for plugged in [camera.plugged for camera in self._cameras]:
            if plugged is not None:
                kept.append(plugged)
                plugged.device.add_to(context)
                arrived.acquire(timeout=2.0)
        return context
