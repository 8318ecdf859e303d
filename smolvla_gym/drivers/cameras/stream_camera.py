"""The driver of cameras that are read as a stream of images: a thread keeps the newest one, and reopens the stream."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.camera import Frame
from smolvla_gym.drivers.cameras.configs import ImageSettings
from smolvla_gym.drivers.cameras.frame_times import StampClock
from smolvla_gym.drivers.cameras.framing import Framing, Intrinsics, rotate
from smolvla_gym.drivers.cameras.undistortion import Undistortion
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError, OptionError

_FIRST_FRAME = 5.0  # s
_NOMINAL_FOVY = 45.0  # degrees, of a camera whose intrinsics are not known


@dataclass(frozen=True, eq=False)
class RawFrame:
    """Image as a source gives it.

    Attributes:
        pixels: RGB, uint8, shape (H, W, 3).
        arrival: When it arrived in s, on the monotonic clock.
        stamp: Time stamp in s on the clock of the camera; None where it has none.
    """

    pixels: NDArray[np.uint8]
    arrival: float
    stamp: float | None = None


class Source(Protocol):
    """An open stream of images.

    Attributes:
        intrinsics: Pinhole model that the camera itself states, None where it states none.
    """

    intrinsics: Intrinsics | None

    def read(self) -> RawFrame | None:
        """Return the newest image, None where none came within a moment (at most 1 s).

        Raises:
            ValueError: One image was refused; the next one may be good.
            OSError: The stream has ended (``DeviceError`` is one).
        """

    def close(self) -> None:
        """Free it."""


class StreamCamera:
    """Driver of a stream, with the members of :class:`smolvla_gym.drivers.cameras.camera.Camera`.

    Attributes:
        name: Description of the camera, for messages.
        lost: Whether the stream is not open. The thread opens it again.
        reconnects: How often the stream was opened again.
        framing: Crop that the thread applies to each frame.
        calibrated: Whether the intrinsics are known.
        retry_period: Time in s between two attempts to open the stream.
        stall_timeout: Time in s without an image after which the stream is opened again.
        closing_timeout: Time in s that :meth:`close` gives the thread, more than its source ever takes.
    """

    retry_period: float = 0.3
    stall_timeout: float = 2.0
    closing_timeout: float = 3.0

    def __init__(self, name: str, open_source: Callable[[], Source], settings: ImageSettings) -> None:
        """Store the settings; :meth:`start` opens the stream.

        Args:
            name: Description of the camera, for messages.
            open_source: Opens the stream, or raises an ``OSError``; called again after the stream was lost.
            settings: Expected size, and what to do with each image.
        """
        self.name: str = name
        self.lost: bool = False
        self.reconnects: int = 0
        self.framing: Framing | None = None
        self.calibrated: bool = settings.intrinsics is not None
        self._open, self._settings = open_source, settings
        self._intrinsics: Intrinsics | None = None
        self._undistort: Undistortion | None = None
        self._stamps = StampClock()
        self._trouble: str | None = None
        self._news = threading.Condition()
        self._latest: Frame | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Open the stream, wait for its first image, and start the thread that reads it.

        Raises:
            MissingExtraError: A package that the camera needs is not installed.
            DeviceError: The camera is not there, or sends no image.
            OptionError: The images have another size than the settings.
        """
        if self._thread is not None:
            return
        # A new event each time, so that a thread which close() could not wait for still ends.
        self._stopping = threading.Event()
        source = self._opened()
        try:
            first = self._first(source)
            self._settle(source, first.pixels)
            self._take(first)
        except BaseException:
            source.close()
            raise
        self.lost, self._trouble = False, None
        self._thread = threading.Thread(target=self._run, args=(source, self._stopping), name=self.name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and give the camera back; doing it twice does no harm."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(self.closing_timeout)

    @property
    def closing(self) -> bool:
        """Whether :meth:`close` was called; a source that is being opened may ask."""
        return self._stopping.is_set()

    @property
    def intrinsics(self) -> Intrinsics:
        """Return the pinhole model of the images; a nominal one where it is not known.

        Raises:
            DeviceError: The camera was not started yet.
        """
        if self._intrinsics is None:
            raise DeviceError("The intrinsics of a camera are known after start(): call it first.")
        return self._intrinsics

    @property
    def trouble(self) -> str | None:
        """Return why the camera gives no images at the moment, None while it does."""
        return self._trouble

    def latest(self) -> Frame | None:
        """Return the newest frame, None before the first one."""
        return self._latest

    def age(self) -> float:
        """Return the time in s since the newest frame was taken, infinite before the first one."""
        latest = self._latest
        return math.inf if latest is None else time.monotonic() - latest.time

    def wait_newer(self, number: int, timeout: float) -> Frame:
        """Wait for a frame.

        Args:
            number: Number of a frame; a later one ends the wait.
            timeout: Time to wait in s.

        Returns:
            The newest frame.

        Raises:
            DeviceError: No frame came.
        """
        with self._news:
            self._news.wait_for(lambda: self._latest is not None and self._latest.number > number, timeout)
            if self._latest is not None and self._latest.number > number:
                return self._latest
        why = self._trouble or "check the camera and its connection"
        raise DeviceError(f"No new image came from {self.name} within {timeout:g} s: {why}.")

    # -- opening -----------------------------------------------------------------------------------------------------

    def _opened(self) -> Source:
        try:
            return self._open()
        except DeviceError:
            raise
        except OSError as error:
            raise DeviceError(f"{self.name} cannot be opened: {error.strerror or error}.") from error

    def _first(self, source: Source) -> RawFrame:
        end = time.monotonic() + _FIRST_FRAME
        why = "no image came"
        while time.monotonic() < end:
            try:
                if (raw := source.read()) is not None:
                    return raw
            except ValueError as error:
                why = str(error)
            except OSError as error:
                why = str(error).rstrip(".")
                break
        raise DeviceError(f"{self.name} sends no images: {why} (waited up to {_FIRST_FRAME:g} s).")

    def _settle(self, source: Source, pixels: NDArray[np.uint8]) -> None:
        """Find the size of the images and the intrinsics.

        Raises:
            OptionError: The images have another size than the settings.
        """
        settings = self._settings
        height, width = rotate(pixels, settings.rotation).shape[:2]
        stated = None if source.intrinsics is None else source.intrinsics.rotated(settings.rotation)
        for wanted, option in ((settings.size, "(width, height)"), (settings.intrinsics, "intrinsics")):
            size = (wanted.width, wanted.height) if isinstance(wanted, Intrinsics) else wanted
            if size is not None and size != (width, height):
                raise OptionError(option, size, f"{self.name} sends images of {width}x{height}")
        if settings.intrinsics is not None:
            self._intrinsics = settings.intrinsics
        elif stated is not None and (stated.width, stated.height) == (width, height):
            self._intrinsics, self.calibrated = stated, True
        else:
            self._intrinsics = Intrinsics.from_fovy(_NOMINAL_FOVY, width, height)
        if settings.distortion is not None:
            self._undistort = Undistortion(self._intrinsics, settings.distortion)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self, source: Source | None, stopping: threading.Event) -> None:
        request_low_latency_scheduling()
        heard = time.monotonic()
        while not stopping.is_set():
            if source is None:
                source = self._reopened()
                if source is None:
                    stopping.wait(self.retry_period)
                    continue
                heard = time.monotonic()
            try:
                if (raw := source.read()) is not None and self._take(raw):
                    heard = time.monotonic()
            except ValueError as error:
                self._trouble = str(error)
            except Exception as error:  # of a library too: without this thread no camera would come back
                self.lost, self._trouble = True, str(error).rstrip(".")
            if self.lost or time.monotonic() - heard > self.stall_timeout:
                with contextlib.suppress(OSError):
                    source.close()
                source = None
        if source is not None:
            with contextlib.suppress(OSError):
                source.close()

    def _reopened(self) -> Source | None:
        try:
            source = self._open()
        except (OSError, OptionError) as error:
            self.lost, self._trouble = True, str(error).rstrip(".")
            return None
        self.lost = False
        self.reconnects += 1
        self._stamps = StampClock()
        return source

    def _take(self, raw: RawFrame) -> bool:
        """Keep a frame; return False for one with the time stamp of the last one, as a frozen camera sends.

        Raises:
            ValueError: It has another size than the first one.
        """
        latest = self._latest
        if latest is not None and raw.stamp is not None and raw.stamp == latest.hardware_time:
            return False
        pixels = rotate(raw.pixels, self._settings.rotation)
        view = self.intrinsics
        if pixels.shape != (view.height, view.width, 3):
            height, width = pixels.shape[:2]
            raise ValueError(f"an image has {width}x{height} pixels instead of {view.width}x{view.height}")
        moment = self._stamps.taken(raw.arrival, raw.stamp)
        if self._undistort is not None:
            pixels = self._undistort(pixels)
        if self._settings.bgr:
            pixels = pixels[..., ::-1]
        # In this thread and not in the control loop, whose period resizing would use up by milliseconds.
        framing = self.framing
        pixels = np.ascontiguousarray(pixels) if framing is None else framing.colour(np.ascontiguousarray(pixels))
        with self._news:
            number = 1 if latest is None else latest.number + 1
            self._latest = Frame(pixels, None, number, moment, raw.stamp)
            self._trouble = None
            self._news.notify_all()
        return True
