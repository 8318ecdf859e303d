"""Render thread, which owns the OpenGL contexts: a context belongs to one thread, an environment to any.

All environments of a process render in one permanent thread. With a thread each, glibc would give each an arena of its
own, up to eight per core, and keep there the tens of MB that a context had used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, cast

from smolvla_gym.errors import RenderingError


class _Job[T]:
    """Function to run in the render thread, and its result."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._result: T | None = None
        self._error: BaseException | None = None
        # A bare lock: a signal that raises in the middle of threading.Event's Python code leaves it broken.
        self._ended, self._lock = False, threading.Lock()
        self._lock.acquire()

    def run(self) -> None:
        """Run the function, and keep no reference to it."""
        function, self._function = self._function, None
        try:
            self._result = function() if function is not None else None
        except BaseException as error:
            self._error = error
        del function
        self._ended = True
        self._lock.release()

    def wait(self) -> None:
        """Wait for the function's end; after an interrupted call this may be called again."""
        while not self._ended:
            self._lock.acquire()

    def result(self) -> T:
        """Return the function's result, or raise its exception."""
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class RenderThread:
    """Thread that runs functions of any caller, one after the other.

    So an environment can be made in one thread, stepped in a second and closed in a third, and the context of a window
    that its caller opened stays current in the caller's thread.
    """

    def __init__(self) -> None:
        """Prepare; the thread starts with the first function."""
        self._jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._pid = 0

    @property
    def forked(self) -> bool:
        """True if the thread belongs to a process that this one was forked from."""
        return self._thread is not None and self._pid != os.getpid()

    def call[T](self, function: Callable[[], T]) -> T:
        """Run a function in the thread and return its result.

        Args:
            function: The function. It ends before this call returns, even if Ctrl-C interrupts the call, as the state
                that it renders must not change meanwhile.

        Raises:
            RenderingError: This process was forked from the one that started the thread.
            BaseException: The function's own exception.
        """
        if self.forked:
            raise RenderingError(
                "This process was forked from one that had already rendered images, which OpenGL does not survive: "
                "make the environment in the process that steps it."
            )
        if threading.current_thread() is self._thread:
            return function()
        job = _Job(function)
        with self._lock:
            if self._thread is None:
                self._pid = os.getpid()  # first: another thread may ask at any moment whether this is a fork
                self._thread = threading.Thread(target=_serve, args=(self._jobs,), name="render", daemon=True)
                self._thread.start()
            try:
                self._jobs.put(job)
                job.wait()
            except BaseException:  # Ctrl-C, at the earliest once the job is in the queue
                job.wait()
                raise
        return job.result()

    def clean_up(self, function: Callable[[], None]) -> None:
        """Run a function in the thread, but never within another one; in a forked process do nothing.

        The garbage collector runs in any thread, also in the middle of an image. A context that it frees then is freed
        after the image, since freeing changes the current context.
        """
        if self.forked:
            return
        if threading.current_thread() is self._thread:
            self._jobs.put(_Job(function))
        else:
            self.call(function)


_the_thread = RenderThread()


def render_thread() -> RenderThread:
    """Return the render thread of this process; a forked process gets one of its own."""
    global _the_thread
    if _the_thread.forked:
        _the_thread = RenderThread()
    return _the_thread


def _serve(jobs: SimpleQueue[_Job[Any]]) -> None:
    while True:
        jobs.get().run()
