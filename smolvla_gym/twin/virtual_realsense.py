"""A virtual RealSense camera: a librealsense software device with the images of a render function.

Everything above it is librealsense itself, so a driver meets profiles, options, frames, timeouts and absence as with a
real camera on a USB port.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, override

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.librealsense import load
from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.twin.camera_model import D405, CameraModel, SoftwareDevice, d435
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.virtual_camera import Render, VirtualCamera

SERIALS: Final = {"wrist": "405000000001", "scene": "435000000002"}
"""Serial numbers of the twin's cameras by name."""

# A D435 at 640x480 sees more than the scene camera of the simulation, so the same view can be cut out.
MODELS: Final[Mapping[str, CameraModel]] = {"wrist": D405, "scene": d435(Intrinsics.from_fovy(42.5, 640, 480))}
"""Models of the twin's cameras by name."""


class VirtualRealSense(VirtualCamera):
    """One virtual RealSense camera."""

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
        name = f"virtual RealSense {serial}"
        super().__init__(render, name=name, noise=noise, seed=seed, faults=faults, on_start=on_start)
        self.serial: str = serial
        self.model: CameraModel = model
        self.usb_type: str = usb_type
        self._rs = load()
        self._lock = threading.Lock()
        self._device: SoftwareDevice | None = None
        self.replug()

    @override
    def _deliver(self, pixels: NDArray[np.uint8], distance: NDArray[np.float32] | None) -> None:
        depth = None if distance is None else self.model.raw_depth(distance)
        with self._lock:
            if self._device is not None:
                self._device.deliver(self.number, pixels, depth)

    # -- the plug --------------------------------------------------------------------------------------------------

    @override
    def unplug(self) -> None:
        """Pull the plug: no frame arrives any more, and no new context finds the camera."""
        with self._lock:
            self._device = None

    @override
    def replug(self) -> None:
        """Put the plug in (again)."""
        with self._lock:
            self._device = SoftwareDevice(self._rs, self.model, self.serial, self.usb_type)

    @property
    @override
    def is_plugged(self) -> bool:
        return self._device is not None

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
