"""Thread that owns an OpenGL context: a context belongs to one thread, and an environment to any."""

from __future__ import annotations

import os
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
        """Start the thread."""
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        # The thread knows the queue alone, so that a renderer which nobody closed is collected and closes itself.
        self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="render", daemon=True)
        self._thread.start()

    @property
    def mine(self) -> bool:
        """Whether this process started the thread; a fork of it has no such thread."""
        return self._pid == os.getpid()

    def call[T](self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result.

        Args:
            function: The function. It ends before this call returns, even where Ctrl-C interrupts the call: what it
                draws must not change meanwhile.

        Raises:
            RenderingError: This process was forked from the one that started the thread.
            BaseException: Whatever the function raises.
        """
        if not self.mine:
            raise RenderingError(
                "This process was forked from one that had already drawn images, which OpenGL does not survive: make "
                "the environment in the process that steps it."
            )
        if threading.current_thread() is self._thread:  # the garbage collector runs in any thread, and closes renderers
            return function()
        answer: SimpleQueue[tuple[T, BaseException | None]] = SimpleQueue()
        with self._lock:
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
        if self.mine:
            self._jobs.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join()


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
