"""What stands between an environment and the board's driver: the same calls for a real arm and one in lockstep."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Event, Mode
from smolvla_gym.drivers.clock import Clock
from smolvla_gym.errors import DeviceError, FaultError, SmolVLAGymError
from smolvla_gym.safety import check_action

GRACE = 2.0
"""What a wait allows beyond the driver's own timeouts, in s: they name the cause better."""


class BoardClient(ABC):
    """The arm as an environment sees it.

    All that asks something of the arm raises FaultError while one is latched; looking and closing never do.
    """

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
        self._request("aim", action=check_action(action).tolist(), sent=self._clock.now())

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
        timeout = self.settings.gripper_timeout + self.settings.obey_timeout
        self._carry_out("enable", "Enabling the arm", timeout, lambda state: state.mode is Mode.READY)

    def disable(self) -> None:
        """Brakes and disables the arm."""
        self._request("disable")
        self._wait("Stopping", self.settings.stop_timeout, _is_down, despite_fault=True)

    def home(self, progress: Callable[[BoardState], None] | None = None) -> None:
        """Has the board search its switches; the arm moves by itself for half a minute and is disabled then.

        Args:
            progress: Called with every state on the way.

        Raises:
            FaultError: A fault is latched or came up.
        """
        if not _is_down(self.state()):
            self.disable()
        timeout = self.settings.homing_timeout
        self._carry_out("home", "Homing", timeout, lambda state: state.mode is Mode.DISABLED, progress)

    def calibrate_gripper(self) -> None:
        """Has an electric gripper find its ends: it opens and closes fully. An air gripper has nothing to find."""
        timeout = self.settings.gripper_timeout
        self._carry_out("calibrate", "Calibrating the gripper", timeout, lambda state: state.gripper_ready)

    def clear(self) -> None:
        """Acknowledges a fault whose cause is gone; the arm stays disabled.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened.
        """
        self._request("clear")
        self._await_reply()

    def _carry_out(
        self,
        do: str,
        doing: str,
        timeout: float,
        done: Callable[[BoardState], bool],
        progress: Callable[[BoardState], None] | None = None,
    ) -> None:
        """Asks for something that takes its time, waits until it is done, and disables the arm where it is not.

        Raises:
            FaultError: A fault came up.
            DeviceError: It took too long.
        """
        try:
            self._request(do)
            self._wait(doing, timeout, done, progress)
        except BaseException:
            # Ctrl-C too: nobody waits for the end any more, and the board would go on by itself.
            with contextlib.suppress(SmolVLAGymError):
                self._request("disable")
            raise

    def _await_reply(self) -> None:
        """Waits for the board to answer on a port that was just opened.

        Raises:
            DeviceError: It does not.
        """
        timeout = self.settings.connect_timeout
        state = self._wait("Waiting for the board", timeout, _has_answered, despite_fault=True)
        if state.time == -math.inf:
            raise DeviceError(state.detail)

    def _wait(
        self,
        doing: str,
        timeout: float,
        done: Callable[[BoardState], bool],
        progress: Callable[[BoardState], None] | None = None,
        *,
        despite_fault: bool = False,
    ) -> BoardState:
        """Waits until a state shows that something is done, and returns that.

        Raises:
            FaultError: A fault came up, unless ``despite_fault``.
            DeviceError: It took longer than ``timeout`` s and some grace.
        """
        deadline = self._clock.now() + timeout + GRACE
        while True:
            state = self.state()
            if progress is not None:
                progress(state)
            if state.fault is not None and not despite_fault:
                raise FaultError(f"{doing} ended with the fault {state.fault!r}: {state.detail}")
            if done(state):
                return state
            if self._clock.now() > deadline:
                raise DeviceError(f"{doing} took longer than {timeout:g} s.")
            self._clock.sleep_until(self._clock.now() + TICK)


def _is_down(state: BoardState) -> bool:
    return state.mode in (Mode.DISABLED, Mode.LOST)


def _has_answered(state: BoardState) -> bool:
    return state.time > -math.inf or state.mode is Mode.LOST
