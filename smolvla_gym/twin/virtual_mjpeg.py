"""Virtual network cameras: the images of render functions as MJPEG over HTTP on the loopback.

A driver reads real bytes from a real socket, and so meets late, torn and missing ones as with a camera in a network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import override

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.configs import MjpegConfig
from smolvla_gym.drivers.cameras.jpeg import encode_jpeg
from smolvla_gym.drivers.cameras.mjpeg_server import JpegChannel, MjpegServer
from smolvla_gym.drivers.scheduling import request_background_scheduling
from smolvla_gym.twin.faults import Faults
from smolvla_gym.twin.virtual_camera import Render, VirtualCamera
from smolvla_gym.twin.virtual_realsense import MODELS


class VirtualMjpeg(VirtualCamera):
    """One virtual network camera.

    Attributes:
        channel: Where its images go, for a server.
    """

    def __init__(
        self,
        render: Render,
        *,
        name: str,
        channel: JpegChannel | None = None,
        noise: float = 1.0,
        seed: int = 0,
        faults: Faults | None = None,
        on_start: Callable[[], object] = request_background_scheduling,
    ) -> None:
        """Plug the camera in.

        Args:
            render: Renders its view.
            name: Name of the camera.
            channel: Where its images go; a new one by default.
            noise: Standard deviation of the noise of the pixels in grey levels.
            seed: Seed of the noise.
            faults: The injected faults; read before each frame.
            on_start: Called by the thread of :meth:`start` first.
        """
        thread = f"virtual camera {name}"
        super().__init__(render, name=thread, noise=noise, seed=seed, faults=faults, on_start=on_start)
        self.channel: JpegChannel = channel or JpegChannel()
        self._sent: tuple[int, float, bytes] | None = None

    @override
    def _deliver(self, pixels: NDArray[np.uint8], distance: NDArray[np.float32] | None) -> None:
        if not self.is_plugged:
            return
        if self._sent is None or self._sent[0] != self.number:
            taken = time.monotonic()
            if self._faults is not None and self._faults.camera_small:
                pixels = np.ascontiguousarray(pixels[::2, ::2])
            jpeg = encode_jpeg(pixels)
            if self._faults is not None and self._faults.camera_torn:
                jpeg = jpeg[: len(jpeg) // 2]
            self._sent = self.number, taken, jpeg
        _, taken, jpeg = self._sent
        self.channel.publish(jpeg, taken)

    @override
    def unplug(self) -> None:
        self.channel.connected = False

    @override
    def replug(self) -> None:
        self.channel.connected = True

    @property
    @override
    def is_plugged(self) -> bool:
        return self.channel.connected


class ServedCameras:
    """The cameras of a twin, with a server of them on the loopback.

    Attributes:
        cameras: The cameras by name.
        server: Their server.
    """

    def __init__(
        self,
        renders: Mapping[str, Render],
        *,
        noise: float,
        faults: Faults,
        on_start: Callable[[], object] = request_background_scheduling,
        port: int = 0,
    ) -> None:
        """Serve cameras; they send nothing until they are started.

        Args:
            renders: The render function of each of the twin's cameras by name.
            noise: Standard deviation of the noise of the pixels in grey levels.
            faults: The injected faults.
            on_start: Called by the thread of each camera first.
            port: TCP port; 0 takes any.

        Raises:
            OptionError: The port is in use.
        """
        self.cameras: dict[str, VirtualMjpeg] = {
            name: VirtualMjpeg(
                render,
                name=name,
                channel=JpegChannel(MODELS[name].colour[0]),
                noise=noise,
                seed=seed,
                faults=faults,
                on_start=on_start,
            )
            for seed, (name, render) in enumerate(renders.items())
        }
        channels = {name: camera.channel for name, camera in self.cameras.items()}
        self.server: MjpegServer = MjpegServer(channels, port=port)

    @property
    def configs(self) -> dict[str, MjpegConfig]:
        """Configurations with which a driver reads the cameras, by name."""
        return {name: MjpegConfig(self.server.url(name)) for name in self.cameras}

    def close(self) -> None:
        """End the server and the threads of the cameras; doing it twice does no harm."""
        for camera in self.cameras.values():
            camera.stop()
        self.server.close()
