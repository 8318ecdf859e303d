"""Loading librealsense, and listing and finding cameras.

Its SDKs differ: 2.56 has no ``__version__``, and none of them has types of errors. Every failure is a ``RuntimeError``,
whose text cannot be relied on.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from smolvla_gym.errors import DeviceError, MissingExtraError

ContextFactory = Callable[[], Any]
"""Makes a ``pyrealsense2.context``: the place for a camera that is not on a USB port."""


@dataclass(frozen=True)
class CameraInfo:
    """A camera that is connected.

    Attributes:
        serial: Serial number.
        name: Name of the model, such as ``"Intel RealSense D405"``.
        usb_type: USB version of the connection, such as ``"3.2"``; empty where it is not known.
    """

    serial: str
    name: str
    usb_type: str

    def __str__(self) -> str:
        return f"{self.name} (serial {self.serial})"


def load() -> ModuleType:
    """Return the module ``pyrealsense2``.

    Raises:
        MissingExtraError: It is not installed.
        DeviceError: It is installed but does not load.
    """
    try:
        return importlib.import_module("pyrealsense2")
    except ImportError as error:
        # The wheels need a libusb-1.0.so.0 that they neither carry nor declare.
        if "libusb" not in str(error):
            if isinstance(error, ModuleNotFoundError):
                raise MissingExtraError("A RealSense camera", "real", error) from error
            raise DeviceError(f"pyrealsense2 does not load: {error}.") from error
    try:
        package = importlib.import_module("libusb_package")
        ctypes.CDLL(str(package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("pyrealsense2")
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"pyrealsense2 needs libusb and does not find it ({error}). Install it with: pip install libusb-package, "
            "or on Debian and Ubuntu with: apt-get install libusb-1.0-0"
        ) from error


def list_cameras(context_factory: ContextFactory | None = None) -> list[CameraInfo]:
    """Return the RealSense cameras that are connected, without waiting.

    Args:
        context_factory: Makes the context to search; that of the USB ports by default.

    Raises:
        MissingExtraError: librealsense is not installed.
        DeviceError: librealsense does not work.
    """
    rs = load()
    try:
        return [info for _, info in query(rs, (context_factory or rs.context)())]
    except RuntimeError as error:
        raise DeviceError(f"librealsense cannot list cameras: {error}.") from error


def query(rs: ModuleType, context: Any) -> list[tuple[Any, CameraInfo]]:
    """Return the devices of a context with their descriptions, by serial number."""

    def read(device: Any, field: Any) -> str:
        return str(device.get_info(field)) if device.supports(field) else ""

    fields = (rs.camera_info.serial_number, rs.camera_info.name, rs.camera_info.usb_type_descriptor)
    found = [(device, CameraInfo(*(read(device, field) for field in fields))) for device in context.query_devices()]
    return sorted(found, key=lambda entry: entry[1].serial)


def find(rs: ModuleType, context: Any, serial: str | None) -> tuple[Any, CameraInfo]:
    """Return a device of a context.

    Args:
        rs: librealsense.
        context: The context to search.
        serial: The device's serial number; None for the only one.

    Raises:
        DeviceError: There is none, or there are several to choose from.
    """
    # A pipeline would wait 15 s for a camera that is not there.
    present = query(rs, context)
    fitting = [entry for entry in present if serial in (None, entry[1].serial)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DeviceError(f"Several RealSense cameras are connected, choose one by its serial: {_names(present)}.")
    wanted = "RealSense camera" if serial is None else f"RealSense camera with the serial {serial!r}"
    raise DeviceError(
        f"No {wanted} was found; connected: {_names(present)}. Check the USB cable and port (USB 3, plugged in anew) "
        "and, on Linux, the permissions (librealsense's udev rules). WSL2 is not supported: its kernel has no camera "
        'driver. camera="twin" works without a camera.'
    )


def _names(present: Sequence[tuple[Any, CameraInfo]]) -> str:
    return ", ".join(str(info) for _, info in present) or "none"
