"""Resize images the same way for training data and for the agent."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import MissingExtraError

MIN_ENV_EDGE: Final = 256
"""Smallest edge in px of env images, so that people can recognise objects in them."""


def env_image_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width in px of env images for a policy that takes ``size``.

    It is a whole multiple: people can recognise what the policy gets, and the agent shrinks the images exactly.
    """
    scale = max(1, math.ceil(MIN_ENV_EDGE / min(size)))
    return scale * size[0], scale * size[1]


def resize_area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image: shrinking averages pixels (area), enlarging interpolates linearly.

    An image that has the size already is returned unchanged. The caller is responsible for the aspect ratio.

    Args:
        image: Shape (H, W, C), uint8.
        size: Height and width of the result in px.

    Returns:
        Shape (height, width, C), uint8.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    try:
        import cv2
    except ImportError as err:
        raise MissingExtraError("Resizing images", "smolvla", err) from err
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    # OpenCV counts width first.
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, image.shape[2])
