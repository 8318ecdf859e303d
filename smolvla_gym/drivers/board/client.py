"""The board's driver as an environment uses it: the same calls for a real arm and for a virtual one in lockstep."""

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
"""Time in s by which a wait exceeds the driver's own timeouts, whose errors name the cause."""


class BoardClient(ABC):
    """The arm as an environment uses it.

    Requests to the arm raise FaultError while a fault is latched; ``state``, ``events`` and ``close`` never do.
    """

    def __init__(self, settings: BoardSettings, clock: Clock) -> None:
        """Prepare the client.

        Args:
            settings: How the driver judges the board.
            clock: The clock to wait on.
        """
        self.settings: BoardSettings = settings
        self._clock = clock

    @abstractmethod
    def state(self) -> BoardState:
        """Return the newest state; it never waits and never raises."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""

    @abstractmethod
    def statistics(self) -> dict[str, float]:
        """Return counters of the driver: ticks, replies, late ticks and the worst lateness in s."""

    @abstractmethod
    def close(self) -> None:
        """Stop the arm, disable it and give the port back; doing it twice does no harm."""

    @abstractmethod
    def _request(self, do: str, **arguments: Any) -> None:
        """Have the driver carry a request out between two ticks.

        On return :meth:`state` shows the change.

        Raises:
            SmolVLAGymError: What the driver raised.
        """

    def aim(self, action: object) -> None:
        """Give the arm a new target; the first one starts the watchdog.

        Args:
            action: Absolute joint targets in rad and gripper opening 0..1, shape (7,).

        Raises:
            ActionError: The action is no such array of finite numbers.
            FaultError: The arm is not enabled.
        """
        self._request("aim", action=check_action(action).tolist(), sent=self._clock.now())

    def finish(self) -> None:
        """End an episode: the arm brakes and holds, and the watchdog expects no actions."""
        self._request("finish")

    def hold(self, reason: str) -> None:
        """Brake, disable the arm and latch a fault of this name, without waiting for any of it."""
        self._request("hold", reason=reason)

    def enable(self) -> None:
        """Enable the arm and the gripper; on return the arm holds the pose that the board reported.

        Raises:
            FaultError: A fault is latched, before or meanwhile.
            NotHomedError: The arm has to be homed first.
        """
        timeout = self.settings.gripper_timeout + self.settings.obey_timeout
        self._carry_out("enable", "Enabling the arm", timeout, lambda state: state.mode is Mode.READY)

    def disable(self) -> None:
        """Brake and disable the arm."""
        self._request("disable")
        self._wait("Stopping", self.settings.stop_timeout, _is_down, despite_fault=True)

    def home(self, progress: Callable[[BoardState], None] | None = None) -> None:
        """Have the board search its limit switches for half a minute to a minute; the driver disables the arm then.

        Args:
            progress: Called with every state meanwhile.

        Raises:
            FaultError: A fault is latched, before or meanwhile.
        """
        if not _is_down(self.state()):
            self.disable()
        timeout = self.settings.homing_timeout
        self._carry_out("home", "Homing", timeout, lambda state: state.mode is Mode.DISABLED, progress)

    def calibrate_gripper(self) -> None:
        """Have an electric gripper find its ends: it opens and closes fully. An air gripper has none to find."""
        timeout = self.settings.gripper_timeout
        self._carry_out("calibrate", "Calibrating the gripper", timeout, lambda state: state.gripper_ready)

    def clear(self) -> None:
        """Acknowledge a fault whose cause is gone; the arm stays disabled.

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
        """Send a request that takes long, wait until it is done, and disable the arm where it fails.

        Raises:
            FaultError: A fault came up.
            DeviceError: It took too long.
        """
        try:
            self._request(do)
            self._wait(doing, timeout, done, progress)
        except BaseException:
            # On Ctrl-C, too: the caller does not wait for the end any more, and the board would go on by itself.
            with contextlib.suppress(SmolVLAGymError):
                self._request("disable")
            raise

    def _await_reply(self) -> None:
        """Wait for the board to answer on a port that was just opened.

        Raises:
            DeviceError: The board does not answer.
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
        """Wait for a state that is ``done``, and return it.

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
