"""Clocks of the drivers: that of the computer, or a simulated one of a virtual arm in lockstep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock with a wait."""

    def now(self) -> float:
        """Return the time in s; it never goes back."""

    def sleep_until(self, moment: float) -> None:
        """Wait until the clock shows ``moment`` in s."""


class SystemClock:
    """The computer's own monotonic clock."""

    def now(self) -> float:
        """Return the time in s."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleep until ``moment`` in s."""
        left = moment - time.monotonic()
        if left > 0.0:
            time.sleep(left)
