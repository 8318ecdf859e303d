"""Camera of the real arm or the twin, whose images get the view and size of the simulation's camera."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.camera import Camera, Frame
from smolvla_gym.drivers.cameras.framing import D405_COLOUR, Framing, Intrinsics
from smolvla_gym.envs.backends.base import Image
from smolvla_gym.sim.scene import DEPTH_RANGES, SCENE_FOVY

REFERENCES: Final = {"wrist": D405_COLOUR, "scene": Intrinsics.from_fovy(SCENE_FOVY, 640, 480)}
"""Intrinsics of the simulation's cameras; these views are cut out of the images of the real ones."""


class CameraRig:
    """Camera with the framing of its images.

    Attributes:
        camera: The camera.
    """

    def __init__(self, camera: Camera, name: str, image_size: tuple[int, int]) -> None:
        """Start a camera; its thread frames the images.

        Args:
            camera: The camera; it is closed if it cannot be started.
            name: Name of the simulation's camera whose view it gives.
            image_size: Height and width of the framed images in px.

        Raises:
            DeviceError: The camera cannot be started.
        """
        try:
            camera.start()
            self._framing = Framing(camera.intrinsics, REFERENCES[name], image_size, DEPTH_RANGES[name])
        except BaseException:
            camera.close()
            raise
        self.camera = camera
        camera.framing = self._framing

    def colour(self, frame: Frame) -> Image:
        """Return the colour image of a frame, shape (H, W, 3)."""
        # A copy: the next step may return the same frame again, and observations belong to the caller.
        return self._framing.colour(frame.pixels) if frame.view is None else frame.view.copy()

    def depth(self, frame: Frame) -> NDArray[np.uint16] | None:
        """Return the depth of a frame in 0.1 mm, shape (H, W, 1), or None without depth."""
        if frame.depth is None:
            return None
        return self._framing.depth(frame.depth) if frame.depth_view is None else frame.depth_view.copy()
