"""Clock and port of a twin and its driver in one thread on simulated time: exact and repeatable."""

from __future__ import annotations

import time
from collections.abc import Callable

from smolvla_gym.drivers.board.serial_port import Port
from smolvla_gym.twin.virtual_board import VirtualBoard

_THROUGH = 1.0  # s of real time in which bytes pass the pseudo-terminal, on a busy computer too
_POLL = 0.02  # s of real time between two polls

WRITE_TIMEOUT = 10.0
"""Real time in s that a write may take: a computer that is busy elsewhere is no device that hangs."""


class LockstepClock:
    """Simulated time. Waiting for a moment advances everything else until then."""

    def __init__(self) -> None:
        """Start at 0 s."""
        self._now = 0.0
        self.run_until: Callable[[float], None] = lambda moment: None
        """Advances everything until a moment in s; it moves the clock with :meth:`set`."""

    def now(self) -> float:
        """Return the simulated time in s."""
        return self._now

    def set(self, moment: float) -> None:
        """Move on to a moment in s; never back."""
        self._now = max(self._now, moment)

    def sleep_until(self, moment: float) -> None:
        """Advance everything until ``moment`` in s."""
        self.run_until(moment)
        self.set(moment)


class LockstepPort:
    """A port whose board replies within the call that writes."""

    def __init__(self, port: Port, board: VirtualBoard) -> None:
        """Wrap an open port.

        Args:
            port: The open port.
            board: The virtual board on it.
        """
        self._port, self._board = port, board
        self._received = board.sent
        self.url: str = port.url

    def write(self, data: bytes) -> None:
        """Write bytes, and have the board reply."""
        self._port.write(data)
        deadline = time.monotonic() + _THROUGH
        while not self._board.service(_POLL) and self._board.plugged and time.monotonic() < deadline:
            pass

    def read(self, timeout: float) -> bytes:
        """Return all that the board has sent by now: no more can come while this thread waits."""
        data = self._port.read(0.0)
        while self._received + len(data) < self._board.sent and (more := self._port.read(_THROUGH)):
            data += more
        self._received = self._board.sent
        return data

    def close(self) -> None:
        """Close the port."""
        self._port.close()
