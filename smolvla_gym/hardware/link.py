"""What stands between an environment and the board's driver: the same calls for a real arm and one in lockstep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from smolvla_gym.errors import DeviceError, FaultError
from smolvla_gym.hardware.board_state import TICK, BoardSettings, BoardState, Mode
from smolvla_gym.hardware.clock import Clock
from smolvla_gym.safety import check_action

Event = dict[str, Any]
"""Something that happened, with its ``time`` in s.

An intervention has a ``rule``: those of the safety gate, ``watchdog`` and ``fault``. All else has an ``event``.
"""

_GRACE = 2.0
"""What a wait allows beyond the driver's own timeouts, in s: they name the cause better."""


class BoardLink(ABC):
    """The arm as an environment sees it. Every call may raise FaultError, all but ``state`` and ``events`` do so."""

    def __init__(self, settings: BoardSettings, clock: Clock) -> None:
        """Prepares the link.

        Args:
            settings: How the driver judges the board.
            clock: The clock to wait on.
        """
        self.settings, self._clock = settings, clock

    @abstractmethod
    def state(self) -> BoardState:
        """Returns the newest state; it never waits and never raises."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Returns what happened since the last call, oldest first."""

    @abstractmethod
    def statistics(self) -> dict[str, float]:
        """Returns counters of the driver: ticks, replies, late ticks and the worst lateness in s."""

    @abstractmethod
    def close(self) -> None:
        """Stops the arm, disables it and gives the port back; doing it twice does no harm."""

    @abstractmethod
    def _request(self, do: str, **arguments: Any) -> None:
        """Has the driver do something between two ticks.

        On return :meth:`state` shows what it changed at once.

        Raises:
            SmolVLAGymError: What the driver raised.
        """

    def aim(self, action: object) -> None:
        """Gives the arm a new target; the first one arms the watchdog.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,).

        Raises:
            ActionError: It is no such array of finite numbers.
            FaultError: The arm is not enabled.
        """
        self._request("aim", action=check_action(action).tolist())

    def finish(self) -> None:
        """Ends an episode: the arm brakes, holds and expects no actions."""
        self._request("finish")

    def hold(self, reason: str) -> None:
        """Brakes, then disables the arm and latches a fault of this name. Returns at once."""
        self._request("hold", reason=reason)

    def enable(self) -> None:
        """Wakes the arm and the gripper; on return the arm holds the pose it was found in.

        Raises:
            FaultError: A fault is latched or came up.
            NotHomedError: The arm has to be homed first.
        """
        self._request("enable")
        timeout = self.settings.gripper_timeout + self.settings.obey_timeout
        self._wait(lambda state: state.mode == Mode.READY, timeout, "enabling the arm")

    def disable(self) -> None:
        """Brakes and disables the arm."""
        self._request("disable")
        self._wait(lambda state: state.mode in (Mode.DISABLED, Mode.LOST), self.settings.stop_timeout, "stopping")

    def home(self, progress: Callable[[BoardState], None] | None = None) -> None:
        """Has the board search its switches; the arm moves by itself for half a minute and is disabled then.

        Args:
            progress: Called with every state on the way.

        Raises:
            FaultError: A fault is latched or came up.
        """
        self._request("home")
        done = lambda state: state.mode == Mode.DISABLED  # noqa: E731
        self._wait(done, self.settings.homing_timeout, "homing", progress)

    def calibrate_gripper(self) -> None:
        """Has an electric gripper find its ends: it opens and closes fully. An air gripper has nothing to find."""
        self._request("calibrate")
        self._wait(lambda state: state.gripper_ready, self.settings.gripper_timeout, "calibrating the gripper")

    def clear(self) -> None:
        """Acknowledges a fault whose cause is gone; the arm stays disabled.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened.
        """
        self._request("clear")
        self._await_reply()

    def _await_reply(self) -> None:
        """Waits for the board to answer on a port that was just opened."""
        self._wait(lambda state: state.time > -np.inf, self.settings.connect_timeout, "waiting for the board")

    def _wait(
        self,
        done: Callable[[BoardState], bool],
        timeout: float,
        doing: str,
        progress: Callable[[BoardState], None] | None = None,
    ) -> None:
        """Waits until a state shows that something is done.

        Raises:
            FaultError: A fault came up.
            DeviceError: It took longer than ``timeout`` s and some grace.
        """
        deadline = self._clock.now() + timeout + _GRACE
        while True:
            state = self.state()
            if progress is not None:
                progress(state)
            if state.fault is not None:
                raise FaultError(f"{doing.capitalize()} ended with the fault {state.fault!r}: {state.detail}")
            if done(state):
                return
            if self._clock.now() > deadline:
                raise DeviceError(f"{doing.capitalize()} took longer than {timeout:g} s.")
            self._clock.sleep_until(self._clock.now() + TICK)
