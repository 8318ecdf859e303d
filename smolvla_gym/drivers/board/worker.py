"""The worker process that owns the port. It outlives its parent, however that ends, and stops the arm then.

:class:`smolvla_gym.drivers.board.process.BoardProcess` starts it. The first request, ``begin``, has the configuration.
From then on the worker sends the state after every tick. Unlike other workers (see :mod:`smolvla_gym.ipc`) it has a
thread that receives requests, as a tick must not wait for one, and a thread that sends messages, so that a parent that
does not read cannot stop the loop.

The loop ends, and stops the arm, when the parent closes the channel, has ended, or sends a line that is no request, and
on SIGTERM and SIGHUP. While the parent lives and sends no actions, the watchdog of the driver stops the arm.
"""

from __future__ import annotations

import gc
import queue
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Final

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.requests import perform, refuse_stale
from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.drivers.board.state import TICK, BoardSettings, Mode
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.ipc import Message, Parent, Request
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.safety import SafetyGate

_FULL: Final = 500
"""Messages that may wait for a parent that does not read: 5 s of states. Then only replies are kept."""

_CONFIRM: Final = 0.5
"""Time limit in s for the board to confirm that it is disabled."""


class _Loop:
    """Ticks, and the requests between them."""

    def __init__(self, config: Message, parent: Parent) -> None:
        self._parent = parent
        self._settings = BoardSettings(**config["settings"])
        self._port: str = config["port"]
        self._board = Board(lambda: SerialPort(self._port), _gate(config), self._settings)
        self._log = EventLog(Path(config["log"])) if config["log"] else None
        # No SimpleQueue: in CPython 3.12 a signal near the end of the timeout can make its get() wait for ever.
        self._inbox = queue.Queue[Request | None]()
        self._ending: str | None = None
        self._late = 0
        self._worst = 0.0

    def end(self, reason: str) -> None:
        """Have the loop end after the present tick."""
        self._ending = self._ending or reason

    def run(self, begin: Request) -> int:
        """Serve until the end; return the exit status."""
        status = 0
        try:
            self._board.connect(time.monotonic())
        except SmolVLAGymError as error:
            begin.fail(error)
            return 1
        threading.Thread(target=self._receive, name="requests", daemon=True).start()
        self._publish()
        begin.reply()
        gc.freeze()
        request_low_latency_scheduling()
        try:
            self._ticks()
            self._stop_arm()
        except BaseException:
            self._cut()
            traceback.print_exc()
            self.end("a defect of this program")
            status = 1
        self._record({"time": time.monotonic(), "event": "end", "reason": self._ending})
        self._board.close()
        if self._log is not None:
            self._log.close()
        return status

    def _receive(self) -> None:
        """Put the requests into the inbox, and None once there will be no more."""
        try:
            for request in self._parent.requests:
                self._inbox.put(request)
        finally:
            self._inbox.put(None)

    def _ticks(self) -> None:
        deadline = time.monotonic()
        while self._ending is None:
            deadline += TICK
            self._serve(deadline)
            late = time.monotonic() - deadline
            self._worst = max(self._worst, late)
            if late > TICK:
                self._late += 1
                deadline += TICK * int(late / TICK)
            self._tick()
            # A fork of the parent may hold the pipe open after the parent's end.
            if self._parent.has_ended:
                self.end("the parent ended")

    def _serve(self, deadline: float) -> None:
        """Carry requests out until the next tick is due."""
        while self._ending is None and (left := deadline - time.monotonic()) > 0.0:
            try:
                request = self._inbox.get(timeout=left)
            except queue.Empty:
                return
            if request is None:
                self.end("the parent ended" if self._parent.has_ended else "the parent closed the channel")
            else:
                self._perform(request)

    def _perform(self, request: Request) -> None:
        arguments = request.arguments
        error: SmolVLAGymError | None = None
        try:
            self._port = arguments.get("port", self._port)  # a board that was plugged in anew may have another name
            # By the time it was sent, not by its arrival: while all of this process stands still nothing arrives.
            refuse_stale(request.do, arguments, time.monotonic(), self._settings.hold_after)
            perform(self._board, request.do, arguments, request.arrived)
        except SmolVLAGymError as raised:
            error = raised
        # First the state: it shows what the request has changed when its reply comes.
        self._publish()
        if error is None:
            request.reply()
        else:
            request.fail(error)

    def _tick(self) -> None:
        self._board.tick(time.monotonic())
        self._publish()

    def _publish(self) -> None:
        self._record(*self._board.drain_events())
        loop = {"late_ticks": self._late, "worst_lateness_s": self._worst}
        self._parent.send({"state": self._board.state.to_json(), "loop": loop}, droppable=True)

    def _record(self, *events: Message) -> None:
        for event in events:
            self._parent.send({"event": event}, droppable=True)
            if self._log is not None:
                self._log.write(event)

    def _stop_arm(self) -> None:
        """Brake, disable and wait for the board to confirm it."""
        deadline = time.monotonic()
        give_up = deadline + self._settings.stop_timeout + _CONFIRM
        self._board.disable(deadline)
        while deadline < give_up:
            self._tick()
            state = self._board.state
            if state.mode is Mode.LOST or (state.mode is Mode.DISABLED and state.echo == Command.DISABLE):
                return
            deadline = max(deadline + TICK, time.monotonic())
            time.sleep(max(deadline - time.monotonic(), 0.0))
            if state.mode is Mode.DISABLED:
                give_up = min(give_up, deadline + _CONFIRM)
        self._cut()

    def _cut(self) -> None:
        # More than once, as a frame can get lost.
        for _ in range(5):
            self._board.cut()
            time.sleep(TICK)


def _gate(config: Message) -> SafetyGate:
    guard = None
    if config["collision"]:
        from smolvla_gym.safety.collision import WORKSPACE, CollisionGuard, Obstacles

        obstacles = None if config["obstacles"] is None else Obstacles(**config["obstacles"])
        guard = CollisionGuard(config["settings"]["gripper"], config["workspace"] or WORKSPACE, obstacles)
    return SafetyGate(config["period"], speed_scale=config["speed_scale"], guard=guard)


def main(parent: Parent) -> int:
    """Run the worker; return its exit status."""
    # Ctrl-C is for the parent; the worker notices when that ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent.write_in_background(_FULL)
    begin = next(parent.requests, None)
    if begin is None:
        return 0
    try:
        loop = _Loop(begin.arguments, parent)
    except Exception as error:
        begin.fail(error)
        return 1
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: loop.end(signal.Signals(number).name))
    return loop.run(begin)
