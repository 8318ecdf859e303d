"""The process that owns the port. It outlives whatever happens to the one that thinks, and stops the arm then.

It is started by :class:`smolvla_gym.drivers.board.client.BoardProcess` and speaks lines of JSON: configuration comes
first, then requests with an ``id``; it answers each and tells the state after every tick.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Final

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.drivers.board.event_log import EventLog
from smolvla_gym.drivers.board.serial_port import SerialPort
from smolvla_gym.drivers.board.state import TICK, BoardSettings, Mode
from smolvla_gym.drivers.board.worker_messages import error_to_json, perform, read_lines, refuse_stale
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.parol6.protocol import Command
from smolvla_gym.safety import SafetyGate

Message = dict[str, Any]

_FULL: Final = 500
"""Messages that may wait for a client that does not read: 5 s of states. Then only answers are kept."""

_CONFIRM: Final = 0.5
"""How long in s to wait for the board to confirm that it is disabled."""


class _Outbox:
    """Lines to the client. A thread writes them: a client that does not read must not stop the loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue = queue.SimpleQueue[Message | None]()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, message: Message, *, needed: bool = False) -> None:
        if needed or self._queue.qsize() < _FULL:
            self._queue.put(message)

    def close(self) -> None:
        """Waits a moment for what is left to be written."""
        self._queue.put(None)
        self._thread.join(0.5)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # The client is gone; who reads its requests notices too.
            while (message := self._queue.get()) is not None:
                line = json.dumps(message, default=str).encode() + b"\n"
                while line:
                    line = line[os.write(self._descriptor, line) :]


class _Inbox:
    """Requests with their time of arrival in s; None where the client hung up."""

    def __init__(self, descriptor: int) -> None:
        # No SimpleQueue: in CPython 3.12 a signal near the end of the timeout can make its get() wait for ever.
        self._queue = queue.Queue[tuple[Message | None, float]]()
        self._descriptor = descriptor
        threading.Thread(target=self._run, name="inbox", daemon=True).start()

    def get(self, timeout: float | None = None) -> tuple[Message | None, float]:
        """Returns the next; raises ``queue.Empty`` after ``timeout`` s."""
        return self._queue.get(timeout=timeout)

    def _run(self) -> None:
        try:
            for line in read_lines(self._descriptor):
                message = json.loads(line)
                if not isinstance(message, dict) or not isinstance(message.get("do", ""), str):
                    raise ValueError(f"no request: {line[:80]!r}")
                self._queue.put((message, time.monotonic()))
        except (ValueError, RecursionError) as error:
            # Not from a client of this release: the arm is stopped, as for one that hung up.
            print(f"smolvla-gym: the process that owns the port was told nonsense ({error})", file=sys.stderr)
        finally:
            self._queue.put((None, time.monotonic()))


class _Loop:
    """Ticks, and what is asked for between them."""

    def __init__(self, config: Message, inbox: _Inbox, outbox: _Outbox) -> None:
        self._inbox, self._outbox = inbox, outbox
        self._settings = BoardSettings(**config["settings"])
        self._port: str = config["port"]
        self._board = Board(lambda: SerialPort(self._port), _gate(config), self._settings)
        self._log = EventLog(Path(config["log"])) if config["log"] else None
        self._parent = os.getppid()
        self._ending: str | None = None
        self._late = 0
        self._worst = 0.0

    def end(self, reason: str) -> None:
        """Has the loop end after the present tick."""
        self._ending = self._ending or reason

    def run(self) -> int:
        """Serves until the end; returns the exit status."""
        status = 0
        try:
            self._board.connect(time.monotonic())
        except SmolVLAGymError as error:
            self._answer(0, error)
            return 1
        self._publish()
        self._answer(0, None)
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
            # A fork of the client may hold the pipe open after the client's end.
            if os.getppid() != self._parent:
                self.end("the client ended")

    def _serve(self, deadline: float) -> None:
        """Does what is asked for until the next tick is due."""
        while self._ending is None and (left := deadline - time.monotonic()) > 0.0:
            try:
                message, arrived = self._inbox.get(left)
            except queue.Empty:
                return
            if message is None:
                self.end("the client ended")
            elif message.get("do") == "close":
                self.end("closed")
            else:
                self._perform(message, arrived)

    def _perform(self, message: Message, arrived: float) -> None:
        try:
            # Not its arrival: while all of this process stands still nothing arrives.
            self._port = message.get("port", self._port)  # a board that was plugged in anew may have another name
            refuse_stale(message["do"], message, time.monotonic(), self._settings.hold_after)
            perform(self._board, message["do"], message, arrived)
            error = None
        except SmolVLAGymError as raised:
            error = raised
        # First the state, so that whoever waits for the answer sees what it has changed.
        self._publish()
        self._answer(message["id"], error)

    def _tick(self) -> None:
        self._board.tick(time.monotonic())
        self._publish()

    def _publish(self) -> None:
        self._record(*self._board.drain_events())
        loop = {"late_ticks": self._late, "worst_lateness_s": self._worst}
        self._outbox.put({"state": self._board.state.to_json(), "loop": loop})

    def _record(self, *events: Message) -> None:
        for event in events:
            self._outbox.put({"event": event})
            if self._log is not None:
                self._log.write(event)

    def _answer(self, request: int, error: Exception | None) -> None:
        self._outbox.put({"id": request, "error": None if error is None else error_to_json(error)}, needed=True)

    def _stop_arm(self) -> None:
        """Brakes, disables and waits for the board to confirm it."""
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
        from smolvla_gym.safety.collision import WORKSPACE, CollisionGuard

        guard = CollisionGuard(config["settings"]["gripper"], workspace=config["workspace"] or WORKSPACE)
    return SafetyGate(config["period"], speed_scale=config["speed_scale"], guard=guard)


def main(output: int) -> int:
    """Runs the process.

    Args:
        output: Descriptor of the pipe to the client.

    Returns:
        The exit status.
    """
    # Ctrl-C is for the program that thinks; this one notices when that ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = _Outbox(output)
    inbox = _Inbox(0)
    config, _ = inbox.get()
    if config is None:
        return 0
    try:
        loop = _Loop(config, inbox, outbox)
    except Exception as error:
        outbox.put({"id": 0, "error": error_to_json(error)}, needed=True)
        outbox.close()
        return 1
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: loop.end(signal.Signals(number).name))
    status = loop.run()
    outbox.close()
    return status
