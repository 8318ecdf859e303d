"""Images of a backend's cameras as the cameras took them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from smolvla_gym.drivers.cameras.camera import Camera
from smolvla_gym.drivers.cameras.whole_image import WholeImage


def camera_serials(cameras: Mapping[str, Camera]) -> dict[str, str]:
    """Return the serial number of each camera by name; empty for one whose driver knows none."""
    return {name: str(getattr(getattr(camera, "info", None), "serial", "")) for name, camera in cameras.items()}


def take_whole_images(cameras: Mapping[str, Camera], renew: Callable[[], None]) -> dict[str, WholeImage]:
    """Return a new image of each camera by name, without the crop of observations.

    Args:
        cameras: The cameras, which frame their images.
        renew: Waits for images that were taken, and cropped, after its call.

    Raises:
        DeviceError: A camera sent no image.
    """
    framings = {name: camera.framing for name, camera in cameras.items()}
    try:
        for camera in cameras.values():
            camera.framing = None
        renew()
        frames = {name: camera.latest() for name, camera in cameras.items()}
    finally:
        for name, camera in cameras.items():
            camera.framing = framings[name]
    renew()
    serials = camera_serials(cameras)
    return {
        name: WholeImage(serials[name], cameras[name].intrinsics, frame.pixels.copy())
        for name, frame in frames.items()
        if frame is not None
    }
