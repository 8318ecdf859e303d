"""Execute inference jobs one after the other in a daemon thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

_Job = tuple["Future[Any]", Callable[[], Any]]

STOP_TIMEOUT_S: Final = 3.0
"""Longest time in s for which :meth:`InferenceThread.close` waits for the running job."""


class InferenceThread:
    """A daemon thread with a queue of jobs.

    It is a daemon thread, unlike those of ``ThreadPoolExecutor``: a policy that hangs must not keep the program from
    exiting.
    """

    def __init__(self, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Start the thread.

        Args:
            stop_timeout_s: Longest time in s for which :meth:`close` waits for the running job.
        """
        self._jobs = queue.SimpleQueue[_Job | None]()
        thread = threading.Thread(target=_run_jobs, args=(self._jobs,), name="inference", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop_thread, self._jobs, thread, stop_timeout_s)

    def submit[Result](self, job: Callable[[], Result]) -> Future[Result]:
        """Queue a job. It does not run if its future is cancelled before its turn."""
        future = Future[Result]()
        self._jobs.put((future, job))
        return future

    def close(self) -> None:
        """Stop the thread after the queued jobs, and wait for it up to the timeout. Calling it twice is harmless."""
        self._stop()


def run_job[Result](future: Future[Result], job: Callable[[], Result]) -> None:
    """Run a job in the calling thread and set the result or the error of its future."""
    try:
        result = job()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit) and threading.current_thread() is threading.main_thread():
            raise
        with contextlib.suppress(Exception):
            future.set_exception(error)
    else:
        future.set_result(result)


def _run_jobs(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        if job[0].set_running_or_notify_cancel():
            run_job(*job)
        del job  # an idle thread keeps no images


def _stop_thread(jobs: queue.SimpleQueue[_Job | None], thread: threading.Thread, timeout_s: float) -> None:
    jobs.put(None)
    # An interpreter that exits while a thread is in torch aborts the process.
    if thread is not threading.current_thread():
        thread.join(timeout_s)
