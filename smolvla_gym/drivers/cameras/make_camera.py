"""Factory of camera drivers from their configurations."""

from __future__ import annotations

import dataclasses

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.configs import CameraConfig, MjpegConfig, RealSenseConfig, UvcConfig
from smolvla_gym.errors import DeviceError, OptionError


def make_camera(config: CameraConfig, *, depth: bool = False) -> Camera:
    """Make the driver of a camera; ``start()`` opens it.

    Args:
        config: Configuration.
        depth: Whether the camera has to measure depth.

    Raises:
        OptionError: The camera cannot measure depth.
        MissingExtraError: A package that the camera needs is not installed.
        DeviceError: No camera has this name.
    """
    if isinstance(config, RealSenseConfig):
        from smolvla_gym.drivers.cameras.realsense import RealSenseCamera

        settings = dataclasses.replace(config.settings, depth=depth)
        return RealSenseCamera(_serial(config.serial), settings, rotation=config.rotation)
    if depth:
        raise OptionError("depth", depth, "only with RealSense cameras, as other ones do not measure distances")
    if isinstance(config, UvcConfig):
        from smolvla_gym.drivers.cameras.uvc import UvcCamera

        return UvcCamera(config)
    if isinstance(config, MjpegConfig):
        from smolvla_gym.drivers.cameras.mjpeg_source import MjpegCamera

        return MjpegCamera(config)
    from smolvla_gym.drivers.cameras.video import VideoCamera

    return VideoCamera(config)


def _serial(serial_or_name: str) -> str:
    """Return the serial number of a RealSense camera that is given by its serial number or the name of its model."""
    if serial_or_name.isdecimal():
        return serial_or_name
    from smolvla_gym.drivers.cameras.librealsense import list_cameras

    present = list_cameras()
    named = [info.serial for info in present if serial_or_name == info.name]
    if len(named) == 1:
        return named[0]
    if named:
        raise DeviceError(f"Several cameras have the name {serial_or_name!r}: choose one by its serial number.")
    return serial_or_name
