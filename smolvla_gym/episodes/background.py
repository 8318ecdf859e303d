"""A thread for slow callbacks, so that the control steps of an arm in real time are not late."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord

_MAX_QUEUED: Final = 300
"""Steps that may wait to be written: ten seconds of them."""


class Background(Callback):
    """Callback that runs another one in a thread of its own.

    Where the callback cannot keep up, steps are left out; their number is written on standard error at the end.
    """

    def __init__(self, callback: Callback) -> None:
        """Start the thread.

        Args:
            callback: Callback to run there.
        """
        self._callback = callback
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_QUEUED)
        self._missed = 0
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="callback", daemon=True)
        self._thread.start()

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Wait until the callback has begun: the arm stands still."""
        self._queue.put(lambda: self._callback.begin(env, record))
        self._queue.join()

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Queue a step, or leave it out where the queue is full."""
        try:
            self._queue.put_nowait(lambda: self._callback.step(record, step))
        except queue.Full:
            self._missed += 1

    def end(self, record: EpisodeRecord) -> None:
        """Queue the end."""
        self._queue.put(lambda: self._callback.end(record))

    def close(self) -> None:
        """Wait until everything is written, and close the callback.

        Raises:
            Exception: The first one that the callback raised in the thread.
        """
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join()
        self._thread = None
        if self._missed:
            print(f"{type(self._callback).__name__} left out {self._missed} steps: it was too slow.", file=sys.stderr)
        self._callback.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                if self._failure is None:
                    work()
            except Exception as error:  # close() raises it in the caller's thread
                self._failure = error
            finally:
                self._queue.task_done()
        self._queue.task_done()
