"""The driver in the thread of its caller, for a virtual arm in lockstep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smolvla_gym.drivers.board.client import GRACE, BoardClient
from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.requests import perform
from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Event, Mode
from smolvla_gym.drivers.clock import Clock
from smolvla_gym.errors import DeviceError, SmolVLAGymError
from smolvla_gym.parol6.protocol import Command

_ROUNDING = 1e-9


class InlineBoard(BoardClient):
    """The driver in the thread of its caller, for a virtual arm in lockstep: it ticks when the clock moves on.

    The owner of the clock calls :meth:`run_until` as its time passes, also while ``sleep_until`` waits.
    """

    def __init__(self, board: Board, settings: BoardSettings, clock: Clock, log: EventLog | None = None) -> None:
        """Open the port.

        Args:
            board: The driver.
            settings: Those of the driver.
            clock: The clock of the virtual arm.
            log: Keeps the events; None: none does.

        Raises:
            DeviceError: The port cannot be opened.
        """
        super().__init__(settings, clock)
        self._board, self._log = board, log
        self._begin, self._ticks = clock.now(), 0
        self._closed = False
        board.connect(self._begin)

    def run_until(self, moment: float, reached: Callable[[float], None] = lambda due: None) -> None:
        """Perform the ticks that are due before a moment in s.

        Args:
            moment: In s.
            reached: Called with the time of each tick before it.
        """
        while not self._closed and (due := self._begin + self._ticks * TICK) < moment - _ROUNDING:
            self._ticks += 1
            reached(due)
            self._board.tick(due)

    def connect(self) -> None:
        """Wait for the board to answer, which it can once the clock runs.

        Raises:
            DeviceError: The board does not answer.
        """
        self._await_reply()

    def state(self) -> BoardState:
        """Return the newest state."""
        return self._board.state

    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        events = self._board.drain_events()
        if self._log is not None:
            for event in events:
                self._log.write(event)
        return events

    def statistics(self) -> dict[str, float]:
        """Return counters of the driver; in lockstep no tick is late."""
        state = self.state()
        return {"ticks": state.ticks, "replies": state.replies, "late_ticks": 0, "worst_lateness_s": 0.0}

    def close(self) -> None:
        """Stop the arm, disable it and give the port back; doing it twice does no harm."""
        if self._closed:
            return
        try:
            self.disable()
            self._wait("Disabling", GRACE, lambda state: state.echo == Command.DISABLE or state.mode is Mode.LOST)
        except SmolVLAGymError:
            self._board.cut()
        finally:
            self._closed = True
            self.events()
            self._board.close()

    def _request(self, do: str, **arguments: Any) -> None:
        if self._closed:
            raise DeviceError("The link to the board is closed.")
        perform(self._board, do, arguments, self._clock.now())
