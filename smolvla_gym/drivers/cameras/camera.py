"""The base of camera drivers: a frame, and the members that an environment uses of a driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.drivers.cameras.framing import Framing, Intrinsics


@dataclass(frozen=True, eq=False)
class Frame:
    """Frame of a camera, cropped by its framing where it has one.

    Attributes:
        pixels: Colour image, uint8, shape (H, W, 3).
        depth: Distance along the optical axis at the same pixels in units of 0.1 mm, 0 where it is not known, uint16,
            shape (H, W), or (H, W, 1) where it is cropped; None unless requested.
        number: Number of the frame; it grows, with gaps, also over reconnects.
        time: When the frame arrived in s, on the camera's clock.
    """

    pixels: NDArray[np.uint8]
    depth: NDArray[np.uint16] | None
    number: int
    time: float


class Camera(Protocol):
    """Driver of a camera that keeps its newest frame.

    Attributes:
        lost: Whether the camera is not connected. The driver searches for it, and reopens it.
        framing: Crop that the driver's thread applies to each frame that arrives from then on; None: no crop.
    """

    lost: bool
    framing: Framing | None

    @property
    def intrinsics(self) -> Intrinsics:
        """Return the pinhole model of the colour images, known after :meth:`start`."""

    def start(self) -> None:
        """Open the camera and start a thread that reads it, without waiting for the first frame.

        Raises:
            DeviceError: The camera is not there, or does not work.
        """

    def latest(self) -> Frame | None:
        """Return the newest frame without waiting, None before the first one."""

    def age(self) -> float:
        """Return the time in s since the newest frame arrived, infinite before the first one."""

    def wait_newer(self, number: int, timeout: float) -> Frame:
        """Wait up to ``timeout`` s of real time for a frame with a higher number, and return the newest one.

        Raises:
            DeviceError: No frame came.
        """

    def close(self) -> None:
        """Stop the thread and give the camera back; doing it twice does no harm."""
