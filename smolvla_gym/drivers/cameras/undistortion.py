"""Removal of lens distortion, for a camera whose intrinsics and distortion are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics

COEFFICIENTS: Final = (4, 5, 8)
"""Numbers of coefficients of OpenCV's models: k1 k2 p1 p2 [k3 [k4 k5 k6]]."""


class Undistortion:
    """Map from images of a camera to those of a pinhole camera with the same intrinsics."""

    def __init__(self, intrinsics: Intrinsics, coefficients: Sequence[float]) -> None:
        """Compute the map.

        Args:
            intrinsics: Intrinsics of the camera, and of the result.
            coefficients: Distortion in OpenCV's order: k1, k2, p1, p2, k3, k4, k5, k6; 4, 5 or 8 of them.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        from smolvla_gym.drivers.cameras.opencv import load

        self._cv2: Any = load("Undistortion")
        matrix = np.array([[intrinsics.fx, 0.0, intrinsics.ppx], [0.0, intrinsics.fy, intrinsics.ppy], [0.0, 0.0, 1.0]])
        size = (intrinsics.width, intrinsics.height)
        self._maps = self._cv2.initUndistortRectifyMap(
            matrix, np.array(coefficients, float), None, matrix, size, self._cv2.CV_16SC2
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image without distortion, uint8, shape (H, W, 3); pixels from outside the image are black."""
        return np.asarray(self._cv2.remap(pixels, *self._maps, self._cv2.INTER_LINEAR), np.uint8)


def undistort(pixels: NDArray[np.uint8], intrinsics: Intrinsics, coefficients: Sequence[float]) -> NDArray[np.uint8]:
    """Return an image without lens distortion; for many images make one :class:`Undistortion`.

    Args:
        pixels: Image, uint8, shape (H, W, 3).
        intrinsics: Intrinsics of the camera, and of the result.
        coefficients: Distortion in OpenCV's order, see :class:`Undistortion`.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    return Undistortion(intrinsics, coefficients)(pixels)
