"""An image of a camera as the camera took it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Intrinsics


@dataclass(frozen=True, eq=False)
class WholeImage:
    """Image of a camera as it took it, without the crop of observations.

    Attributes:
        serial: Serial number of the camera; empty where it has none.
        view: Pinhole model of the image.
        pixels: The image, uint8, shape (H, W, 3).
    """

    serial: str
    view: Intrinsics
    pixels: NDArray[np.uint8]
