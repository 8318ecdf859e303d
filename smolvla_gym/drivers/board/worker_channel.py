"""The process that owns the port, as the one that started it sees it: requests in, answers and states out."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from smolvla_gym.drivers.board.state import UNKNOWN, BoardState, Fault, Mode
from smolvla_gym.drivers.board.worker_messages import error_from_json, read_lines
from smolvla_gym.drivers.scheduling import request_low_latency_scheduling
from smolvla_gym.errors import DeviceError, FaultError

_START: Final = 60.0
"""How long the process may take to import what it needs and to open the port, in s."""

_ANSWER: Final = 2.0
"""How long an answer may take in s; it is there within a tick."""

_AIM_ANSWER: Final = 0.2
"""The same for an aim: a control loop must not stand still for longer, and it sends another one soon."""

_HUNG: Final = 0.5
"""Age in s of the newest state above which the process hangs; it tells one every tick."""

_CATCH_UP: Final = 0.02
"""Time in s for our reader to take what lies in the pipe, where it was this process that stood still."""

_STOPPERS: Final = ("disable", "hold")
"""What a process that hangs is asked for nevertheless: it may wake up."""

_EVENTS: Final = 10_000

# Whatever this interpreter can import the other can, and a file in the current folder cannot get in between.
# What libraries print must not get among the lines, not even while they are imported.
_PROGRAM: Final = """\
import os, sys
outbox = os.dup(1)
os.dup2(2, 1)
sys.path.append(sys.argv[1])
from smolvla_gym.drivers.board.worker import main
sys.exit(main(outbox))
"""


class WorkerChannel:
    """One such process. When its standard input ends it stops the arm and ends.

    Attributes:
        loop: Counters of its loop.
        ended: Whether it has ended.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Starts it.

        Args:
            config: What it reads first.
        """
        self._process = subprocess.Popen(  # noqa: S603 - this Python, no shell
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[3])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            **_on_its_own(),
        )
        assert self._process.stdin is not None  # noqa: S101 - narrows a type
        self._stdin = self._process.stdin
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        # No SimpleQueue: in CPython 3.12 a signal near the end of the timeout can make its get() wait for ever.
        self._answers: dict[int, queue.Queue[dict[str, Any] | None]] = {0: queue.Queue()}
        self._state, self._came = UNKNOWN, time.monotonic()
        self._events = deque[dict[str, Any]](maxlen=_EVENTS)
        self.loop: dict[str, float] = {}
        self.ended = False
        self._send(config)
        threading.Thread(target=self._read, name="board-link", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def state(self) -> BoardState:
        """Returns the newest state of the board."""
        if self.ended:
            detail = f"The process that owns the port has ended; {self._left_alone}."
            return replace(self._state, mode=Mode.LOST, fault=str(Fault.LINK_LOST), detail=detail)
        if self.hung:
            detail = f"The process that owns the port does not answer; {self._left_alone}."
            return replace(self._state, fault=str(Fault.LINK_LOST), detail=detail)
        return self._state

    @property
    def hung(self) -> bool:
        """Whether it has the port and has told nothing for too long."""
        if not self._silent:
            return False
        time.sleep(_CATCH_UP)
        return self._silent

    @property
    def _left_alone(self) -> str:
        """What the board does now: it repeats its last command."""
        match self._state.mode:
            case Mode.HOMING:
                return "the board goes on homing by itself until it is switched off or the fault is cleared"
            case Mode.READY | Mode.STOPPING:
                return "the arm goes to its last target and holds it"
            case _:
                return "the arm was not moving"

    @property
    def _silent(self) -> bool:
        return self._state.mode is not Mode.LOST and time.monotonic() - self._came > _HUNG

    def drain_events(self) -> list[dict[str, Any]]:
        """Returns what happened since the last call, oldest first."""
        events = []
        with contextlib.suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        return events

    def await_start(self) -> None:
        """Waits until it has opened the port.

        Raises:
            DeviceError: It could not.
        """
        self._await(0, _START)

    def request(self, do: str, **arguments: Any) -> None:
        """Has it do something and waits for the answer.

        Raises:
            FaultError: It has ended or does not answer.
            SmolVLAGymError: What the board's driver raised.
        """
        # What is sent to a process that hangs fills the pipe, and then blocks.
        lost = do not in _STOPPERS and self.hung
        with self._lock:
            number = next(self._ids)
            self._answers[number] = queue.Queue()
            if self.ended or lost:
                self._answers[number].put(None)
            else:
                self._send({"do": do, "id": number, **arguments})
        self._await(number, _AIM_ANSWER if do == "aim" else _ANSWER)

    def hang_up(self) -> None:
        """Lets it know that nobody will ask any more: it stops the arm and ends."""
        # Asked as well, as a fork of this process may keep the pipe open; but a fork that ends must not ask.
        if os.getpid() == self._owner:
            self._send({"do": "close"})
        with contextlib.suppress(OSError):
            self._stdin.close()

    def close(self, timeout: float) -> None:
        """Has it end and waits for that, at most for ``timeout`` s."""
        self.hang_up()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            # It hangs in a system call; without it the arm converges to its last target and stays there.
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Ends it at once, so that another can have the port.

        Raises:
            DeviceError: It hangs in a system call that does not end.
        """
        self._process.kill()
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(_ANSWER)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"The process {self.pid} that owns the port hangs and cannot be ended.") from None

    def _await(self, number: int, timeout: float) -> None:
        try:
            answer = self._answers[number].get(timeout=timeout)
        except queue.Empty:
            raise FaultError(f"The process that owns the port did not answer for {timeout:g} s.") from None
        finally:
            self._answers.pop(number, None)
        if answer is None:
            raise FaultError(f"The arm is held by the fault {str(Fault.LINK_LOST)!r}: {self.state().detail}")
        if answer["error"] is not None:
            raise error_from_json(answer["error"])

    def _send(self, message: dict[str, Any]) -> None:
        # A process that has ended is noticed where its output ends.
        with contextlib.suppress(OSError, ValueError):
            self._stdin.write(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - narrows a type
        request_low_latency_scheduling()
        try:
            with self._process.stdout as stream:
                for line in read_lines(stream.fileno()):
                    self._take(_message(line))
        finally:
            with self._lock:
                self.ended = True
                for waiting in list(self._answers.values()):
                    waiting.put(None)

    def _take(self, message: dict[str, Any]) -> None:
        if "state" in message:
            self._state, self.loop = BoardState.from_json(message["state"]), message["loop"]
            self._came = time.monotonic()
        elif "event" in message:
            self._events.append(message["event"])
        elif (waiting := self._answers.get(message.get("id", -1))) is not None:
            waiting.put(message)


def _message(line: bytes) -> dict[str, Any]:
    """Returns what a line says, nothing where a hook of the interpreter printed it before the program began."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _on_its_own() -> dict[str, Any]:
    """Returns what keeps the terminal's signals away from it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
