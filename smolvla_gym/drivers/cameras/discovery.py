"""Search for the cameras of this computer, and measurement of what one of them delivers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.configs import CameraConfig, RealSenseConfig, UvcConfig
from smolvla_gym.drivers.cameras.realsense_stream import CameraSettings
from smolvla_gym.errors import DeviceError, MissingExtraError

_REALSENSE_NODE = "RealSense"
"""Part of the names under which Linux lists a RealSense camera as a USB camera, too."""


def find_cameras() -> tuple[dict[str, CameraConfig], list[str]]:
    """Return the cameras that are connected to this computer by name, and what could not be searched.

    On Linux no device is opened; elsewhere USB cameras are found by opening them.
    """
    found: dict[str, CameraConfig] = {}
    notes = []
    try:
        from smolvla_gym.drivers.cameras.librealsense import list_cameras

        for info in list_cameras():
            found[f"realsense-{info.serial}"] = RealSenseConfig(info.serial, CameraSettings())
    except (DeviceError, MissingExtraError) as error:
        notes.append(f"RealSense cameras: {error}")
    try:
        from smolvla_gym.drivers.cameras.uvc import list_devices

        devices = [device for device in list_devices() if _REALSENSE_NODE not in str(device)]
        found |= {f"usb-{number}": UvcConfig(device) for number, device in enumerate(devices)}
    except MissingExtraError as error:
        notes.append(f"USB cameras: {error}")
    return found, notes


@dataclass(frozen=True, eq=False)
class CameraReport:
    """What a camera delivered.

    Attributes:
        rate: Frames a second; 0 where there were fewer than two.
        age: Median age in s of the newest frame, sampled in even intervals.
        oldest: Largest age in s.
        pixels: The last image, uint8, shape (H, W, 3).
        calibrated: Whether the intrinsics of the camera are known.
    """

    rate: float
    age: float
    oldest: float
    pixels: NDArray[np.uint8]
    calibrated: bool


def measure_camera(camera: Camera, seconds: float) -> CameraReport:
    """Read a camera that is started, for some seconds, and report what it delivered.

    Args:
        camera: The camera.
        seconds: Duration in s.

    Raises:
        DeviceError: It delivers no frame.
    """
    first = last = camera.wait_newer(-1, 5.0)
    ages, count = [], 1
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)
        frame = camera.latest()
        if frame is not None and frame.number > last.number:
            count += frame.number - last.number
            last = frame
        ages.append(camera.age())
    span = last.time - first.time
    return CameraReport(
        rate=(count - 1) / span if span > 0.0 else 0.0,
        age=float(np.median(ages)) if ages else camera.age(),
        oldest=max(ages, default=camera.age()),
        pixels=last.pixels,
        calibrated=camera.calibrated,
    )
