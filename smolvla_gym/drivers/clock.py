"""Time as the drivers see it, so that a virtual arm can run in lockstep on a simulated clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A clock that can be waited on."""

    def now(self) -> float:
        """Returns the time in s since some moment; it never goes back."""

    def sleep_until(self, moment: float) -> None:
        """Returns when the clock shows ``moment`` in s, at once where it already does."""


class SystemClock:
    """The computer's own monotonic clock."""

    def now(self) -> float:
        """Returns the time in s."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleeps until ``moment`` in s."""
        left = moment - time.monotonic()
        if left > 0.0:
            time.sleep(left)
