"""The driver in a worker process of its own, as an environment uses it.

The worker, :mod:`smolvla_gym.drivers.board.worker`, sends the state after every tick, which is also its heartbeat. It
outlives this process, however that ends, and stops the arm then.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from smolvla_gym.drivers.board.client import GRACE, BoardClient
from smolvla_gym.drivers.board.state import BoardSettings, BoardState, Event, Fault, Mode
from smolvla_gym.drivers.clock import SystemClock
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError, FaultError
from smolvla_gym.ipc import Message, Worker, WorkerExitedError, WorkerTimeoutError

if TYPE_CHECKING:
    from smolvla_gym.safety.collision import Obstacles

_START: Final = 60.0
"""Time in s that the worker has to import its modules and to open the port."""

_REPLY: Final = 2.0
"""Time limit of a reply in s; it usually comes within a tick."""

_AIM_REPLY: Final = 0.2
"""The same for an aim: a control loop must not wait for longer, and it sends another one soon."""

_HUNG: Final = 0.5
"""Time in s without a message after which the worker counts as hung; it sends one every tick."""

_CATCH_UP: Final = 0.02
"""Time in s for this process to read what lies in the pipe, where this process was the one that stood still."""

_STOPPERS: Final = ("disable", "hold")
"""Requests that are sent to a worker that hangs, too: it may wake up."""

_EVENTS: Final = 10_000


class _Mirror:
    """Newest state and events of the worker, without a reference to the owner, whose finalizer ends the worker."""

    def __init__(self) -> None:
        self.state = BoardState()
        self.loop: dict[str, float] = {}
        self.events = deque[Event](maxlen=_EVENTS)

    def take(self, message: Message) -> None:
        if "state" in message:
            self.state, self.loop = BoardState.from_json(message["state"]), message["loop"]
        elif "event" in message:
            self.events.append(message["event"])


class BoardProcess(BoardClient):
    """The driver in a worker process."""

    def __init__(
        self,
        port: str,
        settings: BoardSettings,
        *,
        period: float,
        speed_scale: float = 1.0,
        workspace: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None,
        collision: bool = True,
        obstacles: Obstacles | None = None,
        log: Path | None = None,
        find_port: Callable[[], str] | None = None,
    ) -> None:
        """Start the worker and connect.

        Args:
            port: Name or URL of the serial port.
            settings: How the driver judges the board.
            period: Duration of a control step in s.
            speed_scale: Share of the speed limits that may be used, in (0, 1].
            workspace: Two corners in m of the box that the tool stays in; None: all that the arm reaches.
            collision: Whether poses in which the arm is in contact with itself or the table are refused.
            obstacles: What else the arm stays out of; None: nothing.
            log: File that keeps the events; None: no file does.
            find_port: Finds the port again after it was lost, as the system may give it another name; None: it keeps
                its name.

        Raises:
            DeviceError: The port cannot be opened, or no board answers there.
        """
        super().__init__(settings, SystemClock())
        self._config = {
            "port": port,
            "settings": asdict(settings),
            "period": period,
            "speed_scale": speed_scale,
            "workspace": workspace,
            "collision": collision,
            "obstacles": None if obstacles is None else asdict(obstacles),
            "log": None if log is None else str(log),
        }
        self._owner, self._find_port = os.getpid(), find_port
        self._closed = False
        self._start()

    def state(self) -> BoardState:
        """Return the newest state, with the fault ``link_lost`` where the worker has ended or hangs."""
        state = self._mirror.state
        if self._worker.ended:
            detail = f"The process that owns the port has ended; {_unattended(state)}."
            return replace(state, mode=Mode.LOST, fault=str(Fault.LINK_LOST), detail=detail)
        if self._hangs:
            detail = f"The process that owns the port does not answer; {_unattended(state)}."
            return replace(state, fault=str(Fault.LINK_LOST), detail=detail)
        return self._mirror.state

    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        events = []
        with contextlib.suppress(IndexError):
            while True:
                events.append(self._mirror.events.popleft())
        return events

    def statistics(self) -> dict[str, float]:
        """Return counters of the driver and of its loop."""
        state = self.state()
        return {"ticks": state.ticks, "replies": state.replies, **self._mirror.loop}

    @property
    def pid(self) -> int:
        """Return the process id of the worker, which owns the port."""
        return self._worker.pid

    def clear(self) -> None:
        """Acknowledge a fault whose cause is gone; a worker that has ended or hangs is replaced by a new one.

        Raises:
            FaultError: The cause is still there.
            DeviceError: The port was lost and cannot be opened, or found.
        """
        self._refuse_unless_mine()
        if self._find_port is not None and self.state().mode is Mode.LOST:
            self._config["port"] = self._find_port()
        if self._worker.ended or self._hangs:
            # The new one needs the port.
            if not self._worker.kill(_REPLY):
                raise DeviceError(f"The process {self.pid} that owns the port hangs and cannot be ended.")
            self._start()
        else:
            self._request("clear", port=self._config["port"])
            self._await_reply()

    def close(self) -> None:
        """Stop the arm, disable it and give the port back; doing it twice does no harm."""
        # In a fork nothing is stopped: the worker serves the process that started it.
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        # Where the worker is killed, as it hangs in a system call, the arm converges to its last target and stays.
        self._worker.close(self.settings.stop_timeout + GRACE)

    def _start(self) -> None:
        self._mirror = _Mirror()
        self._worker = Worker(
            "smolvla_gym.drivers.board.worker",
            on_message=self._mirror.take,
            on_start=request_low_latency_scheduling,
        )
        # Where this object is forgotten or the interpreter ends, the worker stops the arm.
        weakref.finalize(self, self._worker.hang_up)
        try:
            self._send("begin", _START, self._config)
            self._await_reply()
        except BaseException:
            self._worker.close(GRACE)
            raise

    def _request(self, do: str, **arguments: Any) -> None:
        self._refuse_unless_mine()
        # What is sent to a worker that hangs fills the pipe, and then blocks.
        if do not in _STOPPERS and self._hangs:
            raise self._lost()
        self._send(do, _AIM_REPLY if do == "aim" else _REPLY, arguments)

    def _send(self, do: str, timeout: float, arguments: dict[str, Any]) -> None:
        try:
            self._worker.request(do, timeout=timeout, **arguments)
        except WorkerExitedError:
            raise self._lost() from None
        except WorkerTimeoutError:
            raise FaultError(f"The process that owns the port did not answer for {timeout:g} s.") from None

    def _lost(self) -> FaultError:
        return FaultError(f"The arm is held by the fault {str(Fault.LINK_LOST)!r}: {self.state().detail}")

    def _refuse_unless_mine(self) -> None:
        if self._closed:
            raise DeviceError("The link to the board is closed.")
        if os.getpid() != self._owner:
            raise DeviceError("The link to the board belongs to the process that made it, not to this fork.")

    @property
    def _hangs(self) -> bool:
        """Return whether the worker has the port and has sent no message for too long."""
        if not self._is_silent:
            return False
        time.sleep(_CATCH_UP)
        return self._is_silent

    @property
    def _is_silent(self) -> bool:
        return self._mirror.state.mode is not Mode.LOST and self._worker.silence > _HUNG


def _unattended(state: BoardState) -> str:
    """Return in words what a board without its driver does: it repeats its last command."""
    match state.mode:
        case Mode.HOMING:
            return "the board goes on homing by itself until it is switched off or the fault is cleared"
        case Mode.READY | Mode.STOPPING:
            return "the arm goes to its last target and holds it"
        case _:
            return "the arm was not moving"
