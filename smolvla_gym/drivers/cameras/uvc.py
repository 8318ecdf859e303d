"""Driver of USB cameras (UVC), through OpenCV."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from smolvla_gym.drivers.cameras.configs import UvcConfig
from smolvla_gym.drivers.cameras.framing import Intrinsics
from smolvla_gym.drivers.cameras.opencv import load
from smolvla_gym.drivers.cameras.stream_camera import RawFrame, StreamCamera
from smolvla_gym.errors import DeviceError, OptionError

_MANUAL_V4L2: Final = 1.0
_AUTOMATIC_V4L2: Final = 3.0
_MANUAL_OTHERS: Final = 0.25
_AUTOMATIC_OTHERS: Final = 0.75
"""Values of OpenCV's CAP_PROP_AUTO_EXPOSURE, which depend on its backend."""

_MAX_KERNEL_AGE: Final = 60.0
"""Age in s beyond which the kernel's time of a frame is on another clock."""


class UvcSource:
    """An open USB camera.

    Attributes:
        intrinsics: None: such a camera states none.
    """

    intrinsics: Intrinsics | None = None

    def __init__(self, cv2: ModuleType, config: UvcConfig) -> None:
        """Open and set the camera.

        Args:
            cv2: OpenCV.
            config: Configuration.

        Raises:
            DeviceError: The camera is not there, or another program uses it.
            OptionError: The camera does not take a setting.
        """
        self._cv2, self._name = cv2, f"The camera {config.device}"
        self._capture = self._open(config)
        try:
            self._set(config)
        except BaseException:
            self._capture.release()
            raise
        self._on_v4l2 = self._backend() == "V4L2"

    def _open(self, config: UvcConfig) -> Any:
        device: int | str = config.device
        if isinstance(device, str) and platform.system() == "Linux":
            device = str(Path(device).resolve())  # OpenCV takes /dev/video0, not the links to it
        try:
            capture = self._cv2.VideoCapture(device, config.backend)
        except self._cv2.error as error:
            raise DeviceError(f"{self._name} cannot be opened ({error}).") from error
        if not capture.isOpened():
            capture.release()
            raise DeviceError(
                f"{self._name} cannot be opened: check that it is connected, that no other program uses it, and that "
                "you may open it (on Linux the group `video`); `smolvla-gym cameras` lists cameras."
            )
        return capture

    def _set(self, config: UvcConfig) -> None:
        cv2, image = self._cv2, config.image
        # In this order: a camera offers other sizes and rates in another pixel format.
        if config.fourcc is not None:
            self._capture.set(cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter_fourcc(*config.fourcc)))
            self._check("fourcc", config.fourcc, self._fourcc())
        if image.size is not None:
            # The size of the settings is that of the rotated images.
            width, height = image.size if image.rotation in (0, 180) else image.size[::-1]
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, float(width))
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, float(height))
            real = tuple(int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            self._check("(width, height)", (width, height), real)
        if image.fps is not None:
            self._capture.set(cv2.CAP_PROP_FPS, image.fps)
            fps = float(self._capture.get(cv2.CAP_PROP_FPS))
            if fps > 0.0 and abs(fps - image.fps) > 0.01 * image.fps:  # some backends do not know it
                self._check("fps", image.fps, fps)
        v4l2 = self._backend() == "V4L2"
        if config.exposure is None:
            self._capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _AUTOMATIC_V4L2 if v4l2 else _AUTOMATIC_OTHERS)
        else:
            self._capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, _MANUAL_V4L2 if v4l2 else _MANUAL_OTHERS)
            if not self._capture.set(cv2.CAP_PROP_EXPOSURE, config.exposure):
                raise OptionError("exposure", config.exposure, f"{self._name} does not take this value")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1.0)

    def _check(self, option: str, wanted: object, real: object) -> None:
        if wanted != real:
            raise OptionError(option, wanted, f"{self._name} gives {real!r}; leave it out, or choose what it offers")

    def _fourcc(self) -> str:
        code = int(self._capture.get(self._cv2.CAP_PROP_FOURCC))
        return "".join(chr((code >> 8 * byte) & 0xFF) for byte in range(4))

    def _backend(self) -> str:
        try:
            return str(self._capture.getBackendName())
        except self._cv2.error:
            return ""

    def read(self) -> RawFrame | None:
        """Return the next image.

        Raises:
            ValueError: It is no colour image.
            DeviceError: The camera gives none: it was unplugged, or stands still.
        """
        cv2 = self._cv2
        try:
            good, pixels = self._capture.read()
        except cv2.error as error:
            raise DeviceError(f"{self._name} cannot be read ({error}).") from error
        arrival = time.monotonic()
        if not good or pixels is None:
            raise DeviceError(f"{self._name} gives no images any more: check its cable.")
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"an image has the shape {pixels.shape} instead of (H, W, 3)")
        return RawFrame(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), arrival, self._stamp(arrival))

    def _stamp(self, arrival: float) -> float | None:
        """Return the kernel's time of the last image in s, None where the backend gives none."""
        if not self._on_v4l2:
            return None
        stamp = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1e3
        return stamp if stamp > 0.0 and abs(arrival - stamp) < _MAX_KERNEL_AGE else None

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()


class UvcCamera(StreamCamera):
    """Driver of a USB camera."""

    def __init__(self, config: UvcConfig) -> None:
        """Store the configuration; :meth:`start` opens the camera.

        Args:
            config: Device and settings.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        cv2 = load("A USB camera")
        super().__init__(f"the camera {config.device}", lambda: UvcSource(cv2, config), config.image)


def list_devices() -> list[int | str]:
    """Return the USB cameras of this computer: stable paths on Linux, elsewhere indices that can be opened."""
    if platform.system() == "Linux":
        stable = sorted(Path("/dev/v4l/by-id").glob("*-video-index0"))
        listed = [(path, _usb_device(path.resolve().name)) for path in stable]
        listed += [(path, _usb_device(path.name)) for path in sorted(Path("/dev").glob("video*"))]
        first: dict[Path, Path] = {}  # the other nodes of a camera carry its metadata
        for path, device in listed:
            first.setdefault(device or path, path)
        return [str(path) for path in first.values()]
    cv2 = load("A list of USB cameras")
    found: list[int | str] = []
    for index in range(6):
        capture = cv2.VideoCapture(index)
        if capture.isOpened():
            found.append(index)
        capture.release()
    return found


def _usb_device(node: str) -> Path | None:
    """Return the device in sysfs to which a node such as ``video0`` belongs, None where there is none."""
    link = Path("/sys/class/video4linux") / node / "device"
    return link.resolve() if link.exists() else None
