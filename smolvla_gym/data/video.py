"""Video files of a dataset: headers, and frames one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.info import MAX_SIDE
from smolvla_gym.data.tables import check_regular

_MAX_PIXELS: Final = 8192 * 4320
"""Largest image in px: 8K."""


@dataclass(frozen=True)
class VideoHeader:
    """Header of a video file; no frame is decoded.

    Attributes:
        frames: Number of frames.
        height: Height of a frame in px.
        width: Width of a frame in px.
        fps: Frame rate in Hz; None: unknown.
    """

    frames: int
    height: int
    width: int
    fps: float | None


def read_header(path: Path, fps: float) -> VideoHeader:
    """Return the header of a video.

    Args:
        path: The file.
        fps: Frame rate in Hz with which frames are counted where the header has only a duration.

    Raises:
        OSError, ValueError, av.FFmpegError: The file cannot be opened, has no video, or has frames that are too large.
    """
    with _open(path) as (container, stream):
        rate = float(stream.average_rate) if stream.average_rate else None
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        del container
        return VideoHeader(stream.frames or round(seconds * fps), stream.height, stream.width, rate)


def read_frames(path: Path, pixels: Literal["rgb24", "gray"] = "rgb24") -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video as uint8: (height, width, 3), or (height, width) of grey values.

    Raises:
        OSError, ValueError, av.FFmpegError: The video cannot be decoded, or the size of its frames changes.
    """
    with _open(path) as (container, stream):
        size = stream.height, stream.width
        for frame in container.decode(stream):
            if (frame.height, frame.width) != size:
                raise ValueError(f"a frame is {frame.height}x{frame.width}, the first ones are {size[0]}x{size[1]}")
            yield np.asarray(frame.to_ndarray(format=pixels), np.uint8)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    check_regular(path)
    av.logging.set_libav_level(av.logging.PANIC)  # it prints in addition to raising an exception
    # With the format detected by content, FFmpeg would also open a playlist with other files or addresses.
    with av.open(str(path), format="mp4", metadata_errors="ignore") as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        height, width = stream.height, stream.width
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= _MAX_PIXELS):
            raise ValueError(f"its frames are {height}x{width}")
        yield container, stream
