"""Run inference in simulated or in real time, and decide from which control step on a chunk may be used."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, override

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest
from smolvla_gym.errors import OptionError

_ROUNDING: Final = 1e-9

_JOIN_TIMEOUT_S: Final = 3.0
"""Longest time in s for which :meth:`RealTimeRunner.close` waits for the chunk that is being computed."""


def check_latency(latency_ms: Any) -> tuple[float, ...]:
    """Return latencies in s.

    Args:
        latency_ms: A latency in ms, or a sequence or array of them.

    Raises:
        OptionError: The value has another type, or a latency is negative or not finite, or there is none.
    """
    try:
        values = np.atleast_1d(np.asarray(latency_ms))
    except (TypeError, ValueError):  # such as lists of different lengths
        values = np.empty(0)
    numbers = values.dtype.kind in "iuf" and values.ndim == 1 and values.size > 0
    if not numbers or not np.all((values >= 0.0) & np.isfinite(values)):
        raise OptionError("latency_ms", latency_ms, "a number of ms from 0 on, or a sequence of such numbers")
    return tuple(float(value) / 1e3 for value in values)


class InferenceRunner(ABC):
    """Computes one chunk at a time."""

    blocks: bool
    """True in real time, where a chunk arrives while the caller waits; in lockstep it takes control steps."""

    def begin(self) -> None:  # noqa: B027 - the real-time runner has no state of an episode
        """Begin an episode."""

    @abstractmethod
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        """Start to compute a chunk.

        Args:
            request: The request.
            step: Control step of the request's observation.
        """

    @abstractmethod
    def is_usable(self, future: Future[Chunk], step: int) -> bool:
        """Return whether a result or an error may be used in a control step."""

    def close(self) -> None:  # noqa: B027 - the lockstep runner has no thread
        """Stop the runner. Calling it twice is harmless."""


class LockstepRunner(InferenceRunner):
    """Simulated time: a chunk requested in step t may be used from step t + ceil(latency * control_hz) on.

    The chunk is computed at once, so that the same seeds give the same episode on any machine.
    """

    blocks = False

    def __init__(self, policy: ChunkPolicy, control_hz: float, latencies: Sequence[float] = (0.0,)) -> None:
        """Create a runner.

        Args:
            policy: Computes the chunks.
            control_hz: Control rate in Hz.
            latencies: In s. The requests of an episode take them in turn, repeatedly, so that measured latencies can
                be replayed.
        """
        self._policy = policy
        self._steps = [math.ceil(latency * control_hz - _ROUNDING) for latency in latencies]
        self.begin()

    @override
    def begin(self) -> None:
        # An episode depends on its seeds alone, not on the episodes before it.
        self._delays, self._usable_from = itertools.cycle(self._steps), 0

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        self._usable_from = step + next(self._delays)
        future = Future[Chunk]()
        _fulfil(future, lambda: self._policy.infer(request))
        return future

    @override
    def is_usable(self, future: Future[Chunk], step: int) -> bool:
        return step >= self._usable_from


class RealTimeRunner(InferenceRunner):
    """Real time: a thread computes, and a chunk may be used as soon as it is computed."""

    blocks = True

    def __init__(self, policy: ChunkPolicy, latencies: Sequence[float] = (0.0,)) -> None:
        """Start the thread.

        Args:
            policy: Computes the chunks.
            latencies: Shortest time of a request in s; the requests take them in turn, repeatedly.
        """
        self._jobs = queue.SimpleQueue[_Job | None]()
        self._latencies = itertools.cycle(latencies)
        # A daemon thread: a policy that hangs must not keep the program from exiting.
        thread = threading.Thread(target=_run_jobs, args=(policy, self._jobs), name="inference", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop_thread, self._jobs, thread)

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        future = Future[Chunk]()
        self._jobs.put((future, request, next(self._latencies)))
        return future

    @override
    def is_usable(self, future: Future[Chunk], step: int) -> bool:
        return future.done()

    @override
    def close(self) -> None:
        self._stop()


_Job = tuple["Future[Chunk]", ChunkRequest, float]


def _stop_thread(jobs: queue.SimpleQueue[_Job | None], thread: threading.Thread) -> None:
    jobs.put(None)
    # An interpreter that exits while a thread is in torch aborts the process.
    if thread is not threading.current_thread():
        thread.join(_JOIN_TIMEOUT_S)


def _run_jobs(policy: ChunkPolicy, jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        _run_job(policy, *job)
        del job  # an idle thread keeps no images


def _run_job(policy: ChunkPolicy, future: Future[Chunk], request: ChunkRequest, latency: float) -> None:
    """Compute a chunk in at least ``latency`` s, unless its request was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    not_before = time.monotonic() + latency

    def compute() -> Chunk:
        chunk = policy.infer(request)
        time.sleep(max(0.0, not_before - time.monotonic()))
        return chunk

    _fulfil(future, compute)


def _fulfil(future: Future[Chunk], compute: Callable[[], Chunk]) -> None:
    try:
        chunk = compute()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit) and threading.current_thread() is threading.main_thread():
            raise
        with contextlib.suppress(Exception):
            future.set_exception(error)
    else:
        future.set_result(chunk)
