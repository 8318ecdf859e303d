"""The driver of an Intel RealSense camera: a thread keeps its newest frame, and reopens it after it was unplugged."""

from __future__ import annotations

import atexit
import math
import threading
import time
import warnings
from types import ModuleType
from typing import Any

from smolvla_gym.drivers.cameras.camera import Frame
from smolvla_gym.drivers.cameras.framing import Framing, Intrinsics, rotate
from smolvla_gym.drivers.cameras.librealsense import CameraInfo, ContextFactory, find, load, query
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings, Stream
from smolvla_gym.drivers.clock import Clock, SystemClock
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError, SmolVLAGymError
from smolvla_gym.utils.option_values import check_serial

_CLOSING = 0.8  # s that close() gives the thread


class RealSenseCamera:
    """Driver of a RealSense camera, with the members of :class:`smolvla_gym.drivers.cameras.camera.Camera`.

    Attributes:
        info: Description of the camera; None before :meth:`start`.
        usb_warning: Why the connection is too slow, None where it is not.
        lost: Whether the camera is not connected. The thread searches for it, and reopens it.
        reconnects: How often the stream was started again.
        framing: Crop that its thread applies to each frame; it may be set once the intrinsics are known.
        calibrated: True: the camera states its intrinsics.
        check_period: Time in s without frames after which to check the connection, and between two checks.
        stall_timeout: Time in s without frames after which to restart a connected camera; its first one takes a while.
    """

    check_period: float = 0.5
    stall_timeout: float = 5.0
    calibrated: bool = True

    def __init__(
        self,
        serial: str | int | None = None,
        settings: CameraSettings = CameraSettings(),  # noqa: B008 - immutable
        *,
        context_factory: ContextFactory | None = None,
        clock: Clock | None = None,
        rotation: int = 0,
    ) -> None:
        """Store the settings; :meth:`start` opens the camera.

        Args:
            serial: Serial number, a text or a number; None for the only camera.
            settings: Settings of the camera.
            context_factory: Makes the librealsense context; that of the USB ports by default.
            clock: Clock of the arrival of frames; that of the computer by default.
            rotation: Clockwise rotation of the images in degrees, one of ``ROTATIONS``.

        Raises:
            OptionError: The serial number is neither a text nor a whole number.
        """
        self.info: CameraInfo | None = None
        self.usb_warning: str | None = None
        self.lost: bool = False
        self.reconnects: int = 0
        self.framing: Framing | None = None
        self._serial = None if serial is None else check_serial("serial", serial)
        self._settings, self._rotation = settings, rotation
        self._context_factory = context_factory
        self._clock: Clock = clock or SystemClock()
        self._intrinsics: Intrinsics | None = None
        self._news = threading.Condition()
        self._latest: Frame | None = None
        self._numbers: tuple[int, int] | None = None  # the camera's own, of the colour and the depth of the last frame
        self._offset = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Open the camera and start the thread that reads it, without waiting for the first frame.

        Raises:
            MissingExtraError: librealsense is not installed.
            DeviceError: The camera is not there, or does not work.
            OptionError: The camera cannot be set so.
        """
        if self._thread is not None:
            return
        rs = load()
        stream = self._open(rs)
        self._serial, self.lost = stream.info.serial, False
        if self.usb_warning:
            warnings.warn(self.usb_warning, RuntimeWarning, stacklevel=2)
        # A new event each time, so that a thread which close() could not wait for still ends.
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(rs, stream, self._stopping), name=f"RealSense {self._serial}", daemon=True
        )
        self._thread.start()
        # Threads that are inside librealsense when the interpreter goes would take it down with them.
        atexit.register(self.close)

    def close(self) -> None:
        """Stop the thread and give the camera back; doing it twice does no harm."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_CLOSING)
            atexit.unregister(self.close)

    @property
    def intrinsics(self) -> Intrinsics:
        """Return the pinhole model of the colour images, after rotation.

        Raises:
            DeviceError: The camera was not started yet.
        """
        if self._intrinsics is None:
            raise DeviceError("The intrinsics of a camera are known after start(): call it first.")
        return self._intrinsics

    @property
    def trouble(self) -> str | None:
        """Return None: librealsense does not say why frames stay away."""
        return None

    def latest(self) -> Frame | None:
        """Return the newest frame, None before the first one."""
        return self._latest

    def age(self) -> float:
        """Return the time in s since the newest frame arrived, infinite before the first one."""
        latest = self._latest
        return math.inf if latest is None else self._clock.now() - latest.time

    def wait_newer(self, number: int, timeout: float) -> Frame:
        """Wait for a frame.

        Args:
            number: Number of a frame; a later one ends the wait.
            timeout: Time to wait in s, of real time whatever the clock.

        Returns:
            The newest frame.

        Raises:
            DeviceError: No frame came.
        """
        with self._news:
            self._news.wait_for(lambda: self._latest is not None and self._latest.number > number, timeout)
            if self._latest is not None and self._latest.number > number:
                return self._latest
        why = "it is not connected any more" if self.lost else "check its USB cable and port"
        raise DeviceError(f"No new image came from {self.info or 'the camera'} within {timeout:g} s: {why}.")

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self, rs: ModuleType, stream: Stream | None, stopping: threading.Event) -> None:
        request_low_latency_scheduling()
        arrived, checked = self._clock.now(), time.monotonic()
        while not stopping.is_set():
            if stream is None:
                stream = self._reopen(rs)
                if stream is None:
                    stopping.wait(self.check_period)
                    continue
                arrived, checked = self._clock.now(), time.monotonic()
            try:
                frames = stream.wait()
                if frames is not None:
                    arrived, checked = self._clock.now(), time.monotonic()
                    self._take(stream, frames, arrived)
                elif time.monotonic() - checked > self.check_period:
                    checked = time.monotonic()
                    self.lost = not self._present(rs)
            except RuntimeError:
                self.lost = True
            # A simulated clock that stands still asks for no frames, so their absence is no stall.
            if self.lost or self._clock.now() - arrived > self.stall_timeout:
                stream.stop()
                stream = None
        if stream is not None:
            stream.stop()

    def _take(self, stream: Stream, frames: Any, moment: float) -> None:
        numbers = stream.numbers(frames)
        # librealsense completes a set that lacks an image with an old one.
        if numbers is None or (self._numbers and any(a == b for a, b in zip(numbers, self._numbers, strict=True))):
            return
        last = self._latest.number if self._latest else 0
        if numbers[0] + self._offset <= last:  # a camera that was plugged in anew counts from the beginning
            self._offset = last + 1 - numbers[0]
        pixels, depth = stream.images(frames)
        pixels, depth = rotate(pixels, self._rotation), None if depth is None else rotate(depth, self._rotation)
        # In this thread and not in the control loop, whose period resizing would use up by milliseconds.
        if (framing := self.framing) is not None:
            pixels = framing.colour(pixels)
            depth = None if depth is None else framing.depth(depth)
        with self._news:
            self._numbers = numbers
            self._latest = Frame(pixels, depth, numbers[0] + self._offset, moment, stream.timestamp(frames))
            self._news.notify_all()

    def _present(self, rs: ModuleType) -> bool:
        return any(info.serial == self._serial for _, info in query(rs, self._context(rs)))

    def _reopen(self, rs: ModuleType) -> Stream | None:
        try:
            stream = self._open(rs)
        except (SmolVLAGymError, RuntimeError):
            self.lost = True
            return None
        self.lost = False
        self.reconnects += 1
        return stream

    def _open(self, rs: ModuleType) -> Stream:
        try:
            context = self._context(rs)
            device, self.info = find(rs, context, self._serial)
            self.usb_warning = _usb_warning(self.info)
            stream = Stream(rs, context, device, self.info, self._settings)
        except RuntimeError as error:
            raise DeviceError(
                f"{self.info or 'librealsense'} cannot be started ({error}). Another program may be using the camera; "
                "if none is, plug it in anew."
            ) from error
        self._intrinsics = stream.intrinsics.rotated(self._rotation)
        return stream

    def _context(self, rs: ModuleType) -> Any:
        return (self._context_factory or rs.context)()


def _usb_warning(info: CameraInfo) -> str | None:
    if not info.usb_type.startswith("2"):
        return None
    return (
        f"{info} is connected by USB {info.usb_type}: a D405 then gives 10 to 15 frames a second and only its smaller "
        "images. Use a USB 3 port and a USB 3 cable."
    )
