"""The worker's end of the channel to its parent process."""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from smolvla_gym.ipc.messages import CLOSE, Message, encode_error, parse_message, read_lines, write_message

_FLUSH: Final = 0.5
"""Time in s that a worker has at its end to write the remaining messages."""


@dataclass(frozen=True)
class Request:
    """A request of the parent.

    Attributes:
        do: Its name.
        arguments: Its arguments.
        arrived: When it came, in s of ``time.monotonic``.
        number: Its number, None where it has none.
        parent: Where it came from.
    """

    do: str
    arguments: dict[str, Any]
    arrived: float
    number: int | None
    parent: Parent

    def reply(self, value: Any = None) -> None:
        """Send the reply, a value that JSON can carry."""
        self.parent.send({"reply": self.number, "value": value})

    def fail(self, error: Exception) -> None:
        """Send an error as the reply; the request raises it in the parent."""
        self.parent.send({"reply": self.number, "error": encode_error(error)})

    def report_progress(self, value: Any) -> None:
        """Send a value that JSON can carry to the parent before the reply."""
        self.parent.send({"reply": self.number, "progress": value})


class Parent:
    """The channel to the parent, as a worker uses it.

    Attributes:
        requests: The requests as they come, until the parent closes the channel, has ended, or sends no request.
    """

    def __init__(self, output: int) -> None:
        """Begin; ``output`` is the descriptor of the pipe to the parent."""
        self.requests: Iterator[Request] = self._receive()
        self._output, self._pid = output, os.getppid()
        self._writing = threading.Lock()
        self._outbox: queue.SimpleQueue[Message | None] | None = None
        self._limit = 0

    @property
    def has_ended(self) -> bool:
        """Return whether the parent process has ended; only the end of ``requests`` shows it on Windows."""
        return os.getppid() != self._pid

    def _receive(self) -> Iterator[Request]:
        # On Windows pipes cannot be polled.
        for line in read_lines(0, None if sys.platform == "win32" else lambda: self.has_ended):
            message = parse_message(line)
            do, number = message.pop("do", None), message.pop("id", None)
            if do == CLOSE:
                return
            if not isinstance(do, str):
                print(f"smolvla-gym: a worker process received no request: {line[:80]!r}", file=sys.stderr)
                return
            yield Request(do, message, time.monotonic(), number, self)

    def exit_with(self) -> None:
        """End this process at once when the parent ends; a thread takes over ``requests`` for that."""

        def wait() -> None:
            for _ in self.requests:
                pass
            os._exit(0)

        threading.Thread(target=wait, name="end of the parent", daemon=True).start()

    def send(self, message: Message, *, droppable: bool = False) -> None:
        """Send a message; the end of the parent is no error here.

        Args:
            message: Values that JSON can carry.
            droppable: Whether it may be dropped, where messages are written in the background and too many wait.
        """
        if self._outbox is None:
            with contextlib.suppress(OSError), self._writing:
                write_message(self._output, message)
        elif not droppable or self._outbox.qsize() < self._limit:
            self._outbox.put(message)

    def write_in_background(self, limit: int) -> None:
        """Write messages in a thread from now on, so that a parent that does not read cannot stop the worker.

        Args:
            limit: How many messages may wait before droppable ones are dropped.
        """
        outbox = self._outbox = queue.SimpleQueue[Message | None]()
        self._limit = limit

        def write() -> None:
            with contextlib.suppress(OSError):
                while (message := outbox.get()) is not None:
                    write_message(self._output, message)

        self._writer = threading.Thread(target=write, name="messages to the parent", daemon=True)
        self._writer.start()

    def flush(self) -> None:
        """Write what is left in the background, for a moment at most."""
        if self._outbox is not None:
            self._outbox.put(None)
            self._writer.join(_FLUSH)


def run_worker(module: str, output: int) -> int:
    """Run a worker in this process; return its exit status."""
    parent = Parent(output)
    try:
        status: int = importlib.import_module(module).main(parent)
    finally:
        parent.flush()
    return status
