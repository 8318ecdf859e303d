"""How much of the processor other programs take while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")
_BUSY: Final = (0, 1, 2, 5, 6, 7)
"""Columns of :file:`/proc/stat` that are work: of users, nice, the system, interrupts; and what other guests stole."""


class OtherPrograms:
    """Watches what all programs but this one do, from the moment it is made.

    Example:
        >>> others = OtherPrograms()
        >>> others.cores()  # doctest: +SKIP
        0.03
    """

    def __init__(self) -> None:
        """Begins."""
        self._began, self._before = time.monotonic(), _foreign_seconds()

    def cores(self) -> float | None:
        """Returns how many cores they kept busy since then, on average; None where nobody can tell (not on Linux)."""
        now, elapsed = _foreign_seconds(), time.monotonic() - self._began
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / max(elapsed, 1e-9)


def _foreign_seconds() -> float | None:
    """Returns the time that cores have worked since the machine began, less this process's own."""
    if not _STAT.is_file():
        return None
    ticks = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:]]
    own = os.times()
    return sum(ticks[i] for i in _BUSY) / os.sysconf("SC_CLK_TCK") - own.user - own.system
