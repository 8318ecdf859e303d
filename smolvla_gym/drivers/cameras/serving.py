"""Serve the cameras of this computer to other programs and machines: each frame becomes an image of a server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.jpeg import encode_jpeg
from smolvla_gym.drivers.cameras.mjpeg_server import JpegChannel, MjpegServer
from smolvla_gym.errors import DeviceError

_PATIENCE: Final = 0.2
"""Time in s without a frame after which to see whether the camera is still connected."""


class CameraServer:
    """Server of cameras that are started.

    Attributes:
        server: The server.
    """

    def __init__(self, cameras: Mapping[str, Camera], *, host: str, port: int, token: str | None) -> None:
        """Bind the port, and start to send.

        Args:
            cameras: The cameras by name; they are started, and the caller closes them.
            host: Name or address of the interface. Interfaces other than the loopback require a token.
            port: The port; 0: a free one.
            token: Token that clients have to send; None requires none.

        Raises:
            OptionError: An option has a value that is not allowed, or the port is in use.
        """
        self._stopping = threading.Event()
        channels = {
            name: JpegChannel(camera.intrinsics if camera.calibrated else None) for name, camera in cameras.items()
        }
        self.server: MjpegServer = MjpegServer(channels, host=host, port=port, token=token)
        self._threads = [
            threading.Thread(target=self._send, args=(camera, channels[name]), name=f"send {name}", daemon=True)
            for name, camera in cameras.items()
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all streams and threads; doing it twice does no harm."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.server.close()

    def _send(self, camera: Camera, channel: JpegChannel) -> None:
        number = -1
        while not self._stopping.is_set():
            try:
                frame = camera.wait_newer(number, _PATIENCE)
            except DeviceError:
                channel.connected = not camera.lost
                continue
            number = frame.number
            # The time of the frame, not of its sending: the reader's age then includes the camera's own delay.
            channel.publish(encode_jpeg(frame.pixels), frame.time)
            channel.connected = True
