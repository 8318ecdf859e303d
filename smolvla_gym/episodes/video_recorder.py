"""H.264 video recorder that never leaves half a file."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Final, Self

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from smolvla_gym.errors import RecordingError

ImageArray = NDArray[np.uint8]

_CODEC_OPTIONS: Final = {"preset": "veryfast", "crf": "20"}
_MAX_QUEUED: Final = 32
"""Frames that may wait for the encoder before :meth:`VideoRecorder.add` waits: bounds the memory."""


class VideoRecorder:
    """Writer of an H.264 MP4 that plays everywhere (yuv420p, even sizes, index at the front).

    During the recording the file is called ``<name>.part.mp4``; only :meth:`close` gives it its final name, so a file
    of that name is complete. As a context manager the recorder closes after any exception, Ctrl-C included. Frames are
    encoded in a thread of their own: a control loop does not wait for the encoder, and Ctrl-C cannot interrupt it
    between two packets.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with VideoRecorder(folder / "video.mp4", fps=30) as video:
        ...     video.add(np.zeros((480, 640, 3), np.uint8))
        >>> [file.name for file in folder.iterdir()]
        ['video.mp4']
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        """Prepare the folder; the file is opened by the first frame, which also fixes the size.

        Args:
            path: Path of the video, ending in ``.mp4``. An older file is replaced when this one is complete.
            fps: Frame rate in Hz.

        Raises:
            RecordingError: The folder cannot be made.
        """
        self.path: Path = Path(path)
        self.frames: int = 0
        """Frames taken so far."""
        self.saved: bool = False
        """Return whether the finished file has its final name."""
        self._part = self.path.with_name(f"{self.path.stem}.part.mp4")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._shape: tuple[int, ...] | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._closed = False
        self._failure: RecordingError | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(error) from error
        self._pending: deque[Future[None]] = deque()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="video-encoder")

    def add(self, frame: ImageArray) -> None:
        """Append a frame.

        Args:
            frame: RGB, shape (H, W, 3), uint8; H and W as in the first frame. An odd size is padded by one pixel.

        Raises:
            RecordingError: This or an earlier frame could not be written; the temporary file is gone.
            ValueError: The frame has another shape or type than the first one, or the recorder is closed.
        """
        if self._closed:
            raise ValueError(f"The recorder of {self.path} is closed.")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"A frame must be uint8 of shape (H, W, 3), not {frame.dtype} of shape {frame.shape}.")
        if self._shape is None:
            self._shape = frame.shape
        elif frame.shape != self._shape:
            raise ValueError(f"The frames of one video have one shape: {self._shape}, not {frame.shape}.")
        # Half-resolution colour needs even sizes. from_ndarray copies, so the caller may reuse its array.
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        image.pts, image.time_base = self.frames, 1 / self._rate
        first = self.frames == 0
        self.frames += 1
        self._pending.append(self._encoder.submit(self._encode, image))
        # The first frame is awaited so that a folder without write permission shows at once and not at the end.
        self._collect(0 if first else _MAX_QUEUED)

    def close(self) -> None:
        """Finish the file and give it its final name; without a frame there is no file. Repeating it does nothing.

        Raises:
            RecordingError: The file could not be finished; nothing of it is left.
        """
        if self._closed:
            return
        self._closed = True
        self._pending.append(self._encoder.submit(self._finish))
        # The thread outlives a second Ctrl-C that lands here, and still finishes the file.
        self._encoder.shutdown(wait=False)
        self._collect(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except RecordingError as failure:
            if failure is not error:  # add() has raised it already
                raise

    def _collect(self, allowed: int) -> None:
        """Wait until no more than ``allowed`` frames are queued, and raise an error of the encoder."""
        while self._pending and (len(self._pending) > allowed or self._pending[0].done()):
            self._pending[0].result()
            self._pending.popleft()

    # The methods below run in the encoder's thread.

    def _encode(self, image: av.VideoFrame) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            if self._container is None or self._stream is None:
                self._part.unlink(missing_ok=True)  # it may be a symbolic link to another file
                self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "faststart"})
                self._stream = self._container.add_stream("libx264", rate=self._rate, options=_CODEC_OPTIONS)
                self._stream.width, self._stream.height = image.width, image.height
                self._stream.pix_fmt = "yuv420p"
                self._container.start_encoding()  # opens the file now; else that waits for the encoder's first packet
            self._container.mux(self._stream.encode(image))
        except (OSError, av.FFmpegError) as error:
            self._fail(error)

    def _finish(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._container is None or self._stream is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._part, self.path)
            self.saved = True
        except (OSError, av.FFmpegError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Remove the temporary file and raise the failure, now and at each later frame."""
        self._failure = self._error(error)
        if self._container is not None:
            with contextlib.suppress(OSError, av.FFmpegError):  # the file is broken already
                self._container.close()
        with contextlib.suppress(OSError):
            self._part.unlink()
        raise self._failure from error

    def _error(self, error: Exception) -> RecordingError:
        reason = getattr(error, "strerror", None) or str(error)
        return RecordingError(f"The video {self.path} could not be written: {reason}.")
