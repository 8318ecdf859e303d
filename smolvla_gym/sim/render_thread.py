"""Thread that owns an OpenGL context: a context belongs to one thread, and an environment to any."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from smolvla_gym.errors import RenderingError

_Job = tuple[Callable[[], object], SimpleQueue[tuple[object, BaseException | None]]]


class RenderThread:
    """Runs functions one after the other in a thread of its own, whichever thread asks for them.

    So an environment can be made in one thread, stepped in a second and closed in a third, and the context of a window
    that its caller opened stays current in the caller's thread.
    """

    def __init__(self) -> None:
        """Prepare; the thread starts with the first function."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def forked(self) -> bool:
        """Whether the thread belongs to a process that this one was forked from."""
        return self._thread is not None and self._pid != os.getpid()

    def call[T](self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result.

        Args:
            function: The function. It ends before this call returns, even where Ctrl-C interrupts the call: what it
                draws must not change meanwhile.

        Raises:
            RenderingError: This process was forked from the one that started the thread.
            BaseException: Whatever the function raises.
        """
        if self.forked:
            raise RenderingError(
                "This process was forked from one that had already drawn images, which OpenGL does not survive: make "
                "the environment in the process that steps it."
            )
        if threading.current_thread() is self._thread:  # the garbage collector runs in any thread, and closes renderers
            return function()
        answer: SimpleQueue[tuple[T, BaseException | None]] = SimpleQueue()
        with self._lock:
            if self._thread is None:
                # It knows the queue alone, so that an env that is forgotten unclosed is collected, and ends it.
                self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="render", daemon=True)
                self._thread.start()
                self._pid = os.getpid()
            self._jobs.put((function, answer))  # type: ignore[arg-type]
            try:
                result, error = answer.get()
            except BaseException:
                answer.get()
                raise
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        """End the thread once its last function has returned; doing it twice does no harm."""
        if self.forked:
            return
        if threading.current_thread() is self._thread:  # who asked for the function holds the lock, and waits
            self._thread = None
            self._jobs.put(None)
            return
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
                thread.join()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():
            self.end()


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        function, answer = job
        try:
            result: tuple[object, BaseException | None] = function(), None
        except BaseException as error:
            result = None, error
        # Nothing of a finished job may be kept alive until the next one comes.
        del job, function
        answer.put(result)
        del answer, result
