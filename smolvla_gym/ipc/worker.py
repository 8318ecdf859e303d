"""The parent's end of the channel to a worker process."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import SmolVLAGymError
from smolvla_gym.ipc.messages import CLOSE, Message, decode_error, parse_message, read_lines, write_message

_LOCK: Final = 0.5
"""Time in s that the end may wait for a request that is being written."""

_LAST_MOMENT: Final = 1.0
"""Time in s that a worker may run on after its pipe has ended."""

# The worker can import whatever this interpreter can, and a file in the current folder cannot get in between.
# Where standard error is closed, the copy of the pipe would get its number, and what libraries print reach the parent.
_PROGRAM: Final = """\
import os, sys
try:
    os.fstat(2)
except OSError:
    os.open(os.devnull, os.O_WRONLY)
output = os.dup(1)
os.dup2(2, 1)
sys.path.append(sys.argv[1])
from smolvla_gym.ipc.parent import run_worker
sys.exit(run_worker(sys.argv[2], output))
"""


class WorkerExitedError(SmolVLAGymError):
    """A worker has ended before its reply.

    Attributes:
        status: Exit status, the negative number of a signal that killed the worker, None where it is not known yet.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(f"The worker process has ended with status {status}.")
        self.status = status


class WorkerTimeoutError(SmolVLAGymError):
    """A worker has not replied in time."""


class Worker:
    """A worker process, as the process that started it uses it.

    Any thread may send a request. A fork of the parent cannot: :meth:`close` of its copy closes its descriptors only.

    Attributes:
        ended: Whether the worker has ended.
    """

    def __init__(
        self,
        module: str,
        *,
        descriptors: Sequence[int] = (),
        on_message: Callable[[Message], object] = lambda message: None,
        on_start: Callable[[], object] = lambda: None,
    ) -> None:
        """Start the worker.

        Args:
            module: Name of a module with a function ``main(parent)`` that takes a :class:`Parent` and returns the exit
                status.
            descriptors: Other descriptors that the worker inherits, under the same numbers; not on Windows.
            on_message: Called by the thread that reads, with each message that is no reply. It must not hold a
                reference to an object whose finalizer is to close the worker.
            on_start: Called by the thread that reads before it begins.

        Raises:
            OSError: The process could not be started.
        """
        self._process = subprocess.Popen(  # noqa: S603 - this Python, no shell
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2]), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=descriptors,
            **_own_session(),
        )
        assert self._process.stdin is not None  # noqa: S101 - narrows a type
        self._input = self._process.stdin
        self._owner = os.getpid()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._numbers = itertools.count()
        # No SimpleQueue: in CPython 3.12 a signal near the end of the timeout can make its get() wait for ever.
        self._waiting: dict[int, queue.Queue[Message | None]] = {}
        self._heard = time.monotonic()
        self.ended: bool = False
        self._on_message, self._on_start = on_message, on_start
        threading.Thread(target=self._read, name=f"messages of {module}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Return the process id of the worker."""
        return self._process.pid

    @property
    def silence(self) -> float:
        """Return the time in s since the last message of the worker, or since it was started."""
        return time.monotonic() - self._heard

    def exit_status(self, timeout: float = 0.0) -> int | None:
        """Return the exit status, negative for a signal; None where the worker still runs after ``timeout`` in s."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self._process.returncode

    def request(
        self,
        do: str,
        /,
        *,
        timeout: float | None = None,
        progress: Callable[[Any], object] = lambda value: None,
        **arguments: Any,
    ) -> Any:
        """Send a request and return the value of its reply.

        Args:
            do: Name of the request.
            timeout: How long the reply, or the next progress message, may take in s; None: any time.
            progress: Called in this thread with the value of each progress message.
            **arguments: Values that JSON can carry.

        Raises:
            WorkerExitedError: The worker has ended.
            WorkerTimeoutError: The reply did not come in time.
            SmolVLAGymError: What the worker raised.
        """
        if os.getpid() != self._owner:
            raise WorkerExitedError(None)
        number, replies = next(self._numbers), queue.Queue[Message | None]()
        with self._lock:
            self._waiting[number] = replies
            if self.ended:
                replies.put(None)
        try:
            # A worker that has ended is noticed where its output ends.
            with contextlib.suppress(OSError, ValueError), self._writing:
                write_message(self._input.fileno(), {"do": do, "id": number, **arguments})
            while True:
                reply = replies.get(timeout=timeout)
                if reply is None:
                    raise WorkerExitedError(self.exit_status(min(_LAST_MOMENT, timeout or _LAST_MOMENT)))
                if "error" in reply:
                    raise decode_error(reply["error"])
                if "progress" not in reply:
                    return reply["value"]
                progress(reply["progress"])
        except queue.Empty:
            raise WorkerTimeoutError(f"The worker process has not replied for {timeout} s.") from None
        finally:
            self._waiting.pop(number, None)

    def hang_up(self) -> None:
        """Have the worker end, without waiting for it; doing it twice does no harm."""
        # By a request as well, as a fork of this process may keep the pipe open; but a fork must not end the worker.
        # A request to a worker that hangs may block on the full pipe, and holds the lock meanwhile.
        if os.getpid() == self._owner and self._writing.acquire(timeout=_LOCK):
            try:
                with contextlib.suppress(OSError, ValueError):
                    write_message(self._input.fileno(), {"do": CLOSE})
            finally:
                self._writing.release()
        with contextlib.suppress(OSError):
            self._input.close()

    def close(self, timeout: float) -> None:
        """Have the worker end, wait for that and kill it after ``timeout`` s; doing it twice does no harm."""
        self.hang_up()
        if os.getpid() == self._owner and self.exit_status(timeout) is None:
            self._process.kill()
            self._process.wait()

    def kill(self, timeout: float) -> bool:
        """End the worker at once; return whether it has ended after ``timeout`` s: a system call may hold it up."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._input.close()
        return self.exit_status(timeout) is not None

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - narrows a type
        try:
            self._on_start()
            with self._process.stdout as stream:
                for line in read_lines(stream.fileno()):
                    self._take(parse_message(line))
        finally:
            with self._lock:
                self.ended = True
                for replies in list(self._waiting.values()):
                    replies.put(None)

    def _take(self, message: Message) -> None:
        self._heard = time.monotonic()
        if "reply" not in message:
            self._on_message(message)
        elif (replies := self._waiting.get(message["reply"])) is not None:  # None: its request has timed out
            replies.put(message)


def _own_session() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
