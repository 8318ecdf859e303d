"""Driver of RTSP cameras and video files, through PyAV."""

from __future__ import annotations

import time
from typing import Any, Final

import av
import numpy as np

from smolvla_gym.drivers.cameras.configs import VideoConfig, shown_url
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.jpeg import MAX_PIXELS
from smolvla_gym.drivers.cameras.stream_camera import RawFrame, StreamCamera
from smolvla_gym.errors import DeviceError

_OPEN: Final = 3.0
"""Longest time in s to connect, and again to find out what the stream contains: many cameras send an image that needs
no other one only every two seconds."""

_READ: Final = 1.0
"""Longest time in s until the next packet."""

_RTSP: Final = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay", "probesize": "100000"}
_FALLBACK_FPS: Final = 30.0
_LONGEST_PAUSE: Final = 1.0  # s


class VideoSource:
    """An open stream or file; a file is played at its own rate.

    Attributes:
        intrinsics: None: a video states none.
    """

    intrinsics: Intrinsics | None = None

    def __init__(self, config: VideoConfig) -> None:
        """Open the video.

        Args:
            config: Address or name of the file.

        Raises:
            DeviceError: It cannot be opened, or has no images.
        """
        self._name = f"The video {shown_url(config.location)}"
        live = config.location.startswith(("rtsp://", "rtsps://"))
        # FFmpeg takes many names for addresses or for lists of further files.
        location = config.location if live else f"file:{config.location}"
        options = _RTSP if live else {"protocol_whitelist": "file"}
        try:
            self._container: Any = av.open(location, options=options, timeout=(_OPEN, _READ))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DeviceError(f"{self._name} cannot be opened ({_reason(error)}).") from error
        try:
            if not self._container.streams.video:
                raise DeviceError(f"{self._name} has no images.")
            stream = self._container.streams.video[0]
            if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
                raise DeviceError(f"{self._name} has more than {MAX_PIXELS} pixels.")
            # Threads of the decoder would hold back as many frames.
            stream.thread_type = "SLICE"
            rate = config.image.fps or float(stream.average_rate or _FALLBACK_FPS)
        except BaseException:
            self._container.close()
            raise
        self._frames = self._container.decode(video=0)
        self._period = None if live else 1.0 / max(rate, 1.0)
        self._due = time.monotonic()

    def read(self) -> RawFrame | None:
        """Return the next image.

        Raises:
            ValueError: An image is too large.
            DeviceError: The stream or the file has ended.
        """
        if self._period is not None:
            time.sleep(min(max(self._due - time.monotonic(), 0.0), _LONGEST_PAUSE))
            self._due = max(self._due + self._period, time.monotonic())
        try:
            frame = next(self._frames)
        except StopIteration:
            raise DeviceError(f"{self._name} has ended.") from None
        except (av.FFmpegError, OSError) as error:
            raise DeviceError(f"{self._name} cannot be read ({_reason(error)}).") from error
        if frame.width * frame.height > MAX_PIXELS:
            raise ValueError(f"an image has {frame.width}x{frame.height} pixels (limit {MAX_PIXELS})")
        # A file's times begin anew with each round, and would make its frames equal to those of the round before.
        stamp = None if self._period is not None else frame.time
        return RawFrame(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), time.monotonic(), stamp)

    def close(self) -> None:
        """Free it."""
        self._container.close()


def _reason(error: Exception) -> str:
    """Return what an error says, without the address, which may have a password in it."""
    return getattr(error, "strerror", None) or type(error).__name__


class VideoCamera(StreamCamera):
    """Driver of an RTSP camera, or of a file that is played again and again."""

    closing_timeout: float = 2 * _OPEN + _READ

    def __init__(self, config: VideoConfig) -> None:
        """Store the configuration; :meth:`start` opens it.

        Args:
            config: Address or file, and expected images.
        """
        live = config.location.startswith(("rtsp://", "rtsps://"))
        self.retry_period: float = 0.3 if live else 0.05
        super().__init__(f"the video {shown_url(config.location)}", lambda: VideoSource(config), config.image)
