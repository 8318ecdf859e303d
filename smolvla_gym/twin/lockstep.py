"""A twin and its driver in one thread on simulated time: exact, repeatable, and as fast as it can."""

from __future__ import annotations

from collections.abc import Callable

from smolvla_gym.hardware.port import Port
from smolvla_gym.twin.board import VirtualBoard

_ANSWER = 0.05  # s of real time in which the bytes are through the pseudo-terminal

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
        self.url = port.url

    def write(self, data: bytes) -> None:
        """Writes, and has the board answer."""
        self._port.write(data)
        self._board.service(_ANSWER)

    def read(self, timeout: float) -> bytes:
        """Returns what is there; see ``Port``."""
        return self._port.read(timeout)

    def close(self) -> None:
        """Closes the port."""
        self._port.close()
