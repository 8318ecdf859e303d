"""A twin and its driver in one thread on simulated time: exact, repeatable, and as fast as it can."""

from __future__ import annotations

import time
from collections.abc import Callable

from smolvla_gym.drivers.board.serial_port import Port
from smolvla_gym.twin.virtual_board import VirtualBoard

_THROUGH = 1.0  # s of real time in which bytes are through the pseudo-terminal, on a busy computer too
_LOOK = 0.02  # s of it between two looks

WRITE_TIMEOUT = 10.0
"""Real time in s that a write may take: a computer that is busy elsewhere is no device that hangs."""


class LockstepClock:
    """Simulated time. Waiting for a moment is what makes everything else happen until then."""

    def __init__(self) -> None:
        """Starts at 0 s with nothing to run."""
        self._now = 0.0
        self.run_until: Callable[[float], None] = lambda moment: None
        """What is to happen before a moment in s; it moves the clock with :meth:`set`."""

    def now(self) -> float:
        """Returns the simulated time in s."""
        return self._now

    def set(self, moment: float) -> None:
        """Moves on to a moment in s; never back."""
        self._now = max(self._now, moment)

    def sleep_until(self, moment: float) -> None:
        """Lets everything happen until ``moment`` in s."""
        self.run_until(moment)
        self.set(moment)


class LockstepPort:
    """A port whose other end answers within the call that writes."""

    def __init__(self, port: Port, board: VirtualBoard) -> None:
        """Wraps an open port.

        Args:
            port: The driver's end.
            board: What is at the other end.
        """
        self._port, self._board = port, board
        self._received = board.sent
        self.url = port.url

    def write(self, data: bytes) -> None:
        """Writes, and has the board answer."""
        self._port.write(data)
        deadline = time.monotonic() + _THROUGH
        while not self._board.service(_LOOK) and self._board.plugged and time.monotonic() < deadline:
            pass

    def read(self, timeout: float) -> bytes:
        """Returns all that the board has sent by now: while this thread waits for more, nothing can come."""
        data = self._port.read(0.0)
        while self._received + len(data) < self._board.sent and (more := self._port.read(_THROUGH)):
            data += more
        self._received = self._board.sent
        return data

    def close(self) -> None:
        """Closes the port."""
        self._port.close()
