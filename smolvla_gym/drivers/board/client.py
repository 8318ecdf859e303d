"""What stands between an environment and the board's driver: the same calls for a real arm and one in lockstep."""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.state import TICK, BoardSettings, BoardState, Mode
from smolvla_gym.drivers.board.worker_channel import WorkerChannel
from smolvla_gym.drivers.board.worker_messages import perform
from smolvla_gym.drivers.clock import Clock, SystemClock
from smolvla_gym.errors import DeviceError, FaultError, SmolVLAGymError
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.safety import check_action

Event = dict[str, Any]
"""Something that happened, with its ``time`` in s.

An intervention has the fields of :class:`~smolvla_gym.safety.Intervention`: ``rule``, ``where`` and ``why``. All else
has an ``event``; the event ``shaping`` has ``limits``, the number of joints that each limit slowed down.
"""

_ROUNDING = 1e-9

_GRACE = 2.0
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
        deadline = self._clock.now() + timeout + _GRACE
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


class InlineBoard(BoardClient):
    """The driver in this very thread, for a virtual arm in lockstep: its ticks come when the clock moves on.

    Whoever owns the clock calls :meth:`run_until` as its time passes, also while ``sleep_until`` waits.
    """

    def __init__(self, board: Board, settings: BoardSettings, clock: Clock, log: EventLog | None = None) -> None:
        """Connects.

        Args:
            board: The driver.
            settings: Those of the driver.
            clock: The clock of the virtual arm.
            log: Where events are kept.

        Raises:
            DeviceError: The port cannot be opened.
        """
        super().__init__(settings, clock)
        self._board, self._log = board, log
        self._begin, self._ticks = clock.now(), 0
        self._events = list[Event]()
        self._closed = False
        board.connect(self._begin)

    def run_until(self, moment: float, reached: Callable[[float], None] = lambda due: None) -> None:
        """Performs the ticks that are due before a moment in s.

        Args:
            moment: In s.
            reached: Called with the time of each tick before it.
        """
        while not self._closed and (due := self._begin + self._ticks * TICK) < moment - _ROUNDING:
            self._ticks += 1
            reached(due)
            self._board.tick(due)

    def connect(self) -> None:
        """Waits for the board to answer, which it can only do once the clock runs.

        Raises:
            DeviceError: It does not.
        """
        self._await_reply()

    def state(self) -> BoardState:
        """Returns the newest state."""
        return self._board.state

    def events(self) -> list[Event]:
        """Returns what happened since the last call, oldest first."""
        events = self._board.drain_events()
        if self._log is not None:
            for event in events:
                self._log.write(event)
        return events

    def statistics(self) -> dict[str, float]:
        """Returns counters of the driver; in lockstep no tick is late."""
        state = self.state()
        return {"ticks": state.ticks, "replies": state.replies, "late_ticks": 0, "worst_lateness_s": 0.0}

    def close(self) -> None:
        """Stops the arm, disables it and gives the port back; doing it twice does no harm."""
        if self._closed:
            return
        try:
            self.disable()
            self._wait("Disabling", _GRACE, lambda state: state.echo == Command.DISABLE or state.mode is Mode.LOST)
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


class BoardProcess(BoardClient):
    """The driver in a process of its own, which outlives whatever happens to this one, and stops the arm then."""

    def __init__(
        self,
        port: str,
        settings: BoardSettings,
        *,
        period: float,
        speed_scale: float = 1.0,
        workspace: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
        collision: bool = True,
        log: Path | None = None,
        find_port: Callable[[], str] | None = None,
    ) -> None:
        """Starts the process and connects.

        Args:
            port: Name or URL of the serial port.
            settings: How the driver judges the board.
            period: Duration of a control step in s.
            speed_scale: Share of the speed limits that may be used, in (0, 1].
            workspace: Two corners in m of the box that the tool stays in; None: all that the arm reaches.
            collision: Whether poses in which the arm touches itself or the table are refused.
            log: File that keeps the events; None: none does.
            find_port: Finds the port again after it was lost, as the system may give it another name; None: it keeps
                its name.

        Raises:
            DeviceError: The port cannot be opened, or nothing answers there.
        """
        super().__init__(settings, SystemClock())
        self._config = {
            "port": port,
            "settings": asdict(settings),
            "period": period,
            "speed_scale": speed_scale,
            "workspace": workspace,
            "collision": collision,
            "log": None if log is None else str(log),
        }
        self._owner, self._find_port = os.getpid(), find_port
        self._closed = False
        self._start()

    def state(self) -> BoardState:
        """Returns the newest state."""
        return self._child.state()

    def events(self) -> list[Event]:
        """Returns what happened since the last call, oldest first."""
        return self._child.drain_events()

    def statistics(self) -> dict[str, float]:
        """Returns counters of the driver and of its loop."""
        state = self.state()
        return {"ticks": state.ticks, "replies": state.replies, **self._child.loop}

    @property
    def pid(self) -> int:
        """The process that owns the port."""
        return self._child.pid

    def clear(self) -> None:
        """Acknowledges a fault whose cause is gone; a process that was lost or hangs is started anew.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened, or found.
        """
        self._refuse_unless_mine()
        if self._find_port is not None and self.state().mode is Mode.LOST:
            self._config["port"] = self._find_port()
        if self._child.ended or self._child.hung:
            self._child.kill()
            self._start()
        else:
            self._request("clear", port=self._config["port"])
            self._await_reply()

    def close(self) -> None:
        """Stops the arm, disables it and gives the port back; doing it twice does no harm."""
        # In a forked child the process is not ours: it serves the one that started it.
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        self._child.close(self.settings.stop_timeout + _GRACE)

    def _start(self) -> None:
        self._child = WorkerChannel(self._config)
        # Where this object is forgotten or the interpreter ends, the process must hear of it.
        weakref.finalize(self, self._child.hang_up)
        try:
            self._child.await_start()
            self._await_reply()
        except BaseException:
            self._child.close(_GRACE)
            raise

    def _request(self, do: str, **arguments: Any) -> None:
        self._refuse_unless_mine()
        self._child.request(do, **arguments)

    def _refuse_unless_mine(self) -> None:
        if self._closed:
            raise DeviceError("The link to the board is closed.")
        if os.getpid() != self._owner:
            raise DeviceError("The link to the board belongs to the process that made it, not to this fork.")
