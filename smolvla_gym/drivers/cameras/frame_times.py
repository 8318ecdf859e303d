"""Times of frames that carry a time stamp of the camera's own clock."""

from __future__ import annotations

import math
from typing import Final

_DRIFT: Final = 2e-4
"""Largest difference in speed of two clocks, as a ratio; quartz clocks differ by less than 1e-4."""


class StampClock:
    """Estimate of when frames were taken, by their stamps and their arrival.

    The two clocks have an unknown offset. The frame that took the shortest time to arrive gives the smallest difference
    of arrival and stamp; whatever another frame's difference exceeds it by is how long that frame was held up on its
    way. A frame that waited in a buffer so counts as old although it arrived just now, and no frame counts as newer
    than its arrival.
    """

    def __init__(self) -> None:
        self._least = math.inf
        self._stamp = -math.inf
        self._arrival = -math.inf

    def taken(self, arrival: float, stamp: float | None) -> float:
        """Return when a frame was taken, in s on the clock of its arrival, at the latest ``arrival``.

        Args:
            arrival: When the frame arrived in s; it does not go back.
            stamp: Its time stamp in s on the camera's clock; None where it has none.
        """
        if stamp is None or not math.isfinite(stamp):
            return arrival
        if stamp < self._stamp:  # the camera's clock was set back, or the camera began anew
            self._least = math.inf
        drifted = self._least + _DRIFT * (arrival - self._arrival) if math.isfinite(self._least) else math.inf
        self._least = min(drifted, arrival - stamp)
        self._stamp, self._arrival = stamp, arrival
        return min(arrival, stamp + self._least)
