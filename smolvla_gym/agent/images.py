"""The one way in which pictures are made smaller: for training data and for the agent alike."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import MissingExtraError

MIN_ENV_EDGE: Final = 256
"""Smallest edge in px of pictures that people can make something out in."""


def env_image_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width in px that an env's pictures should have for a policy that wants ``size``.

    Whole multiples: people can see what the policy sees, and the agent shrinks them without a loss.
    """
    scale = max(1, math.ceil(MIN_ENV_EDGE / min(size)))
    return scale * size[0], scale * size[1]


def resize_area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes a picture: shrinking averages the pixels that fall together, enlarging interpolates linearly.

    A picture of the right size is returned as it is. The aspect ratio is the caller's business.

    Args:
        image: Shape (H, W, C), uint8.
        size: Height and width wanted, in pixels.

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
        raise MissingExtraError("Resizing pictures", "smolvla", err) from err
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    # OpenCV counts width first.
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, image.shape[2])
