"""Where chunks are computed, and from which control step on they can be used: in simulated or in real time."""

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

_LAST_CHUNK: Final = 3.0
"""How long in s the end waits for the chunk that is being computed."""


def check_latency(latency_ms: Any) -> tuple[float, ...]:
    """Returns latencies in s.

    Args:
        latency_ms: A latency in ms, or a sequence or array of them.

    Raises:
        OptionError: It is none of both, empty, negative or not finite.
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
    """Takes one request at a time."""

    blocks: bool
    """Whether waiting for a chunk makes it come; in lockstep only steps do."""

    def begin(self) -> None:  # noqa: B027 - real time goes on
        """Begins an episode."""

    @abstractmethod
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        """Has a chunk computed.

        Args:
            request: What is asked for.
            step: The control step of its observation.
        """

    @abstractmethod
    def usable(self, future: Future[Chunk], step: int) -> bool:
        """Tells whether a result (or an error) may be looked at in a control step."""

    def close(self) -> None:  # noqa: B027 - in lockstep nothing runs
        """Ends what runs; doing it twice does no harm."""


class LockstepRunner(InferenceRunner):
    """Simulated time: a chunk that is asked for in step t can be used from step t + ceil(latency * control_hz) on.

    It is computed at once, so that the same seeds give the same episode on any machine.
    """

    blocks = False

    def __init__(self, policy: ChunkPolicy, control_hz: float, latencies: Sequence[float] = (0.0,)) -> None:
        """Prepares it.

        Args:
            policy: Computes the chunks.
            control_hz: Control steps a second.
            latencies: In s; the requests of an episode take them in turn, over and over. So a recording can be played
                back.
        """
        self._policy = policy
        self._steps = [math.ceil(latency * control_hz - _ROUNDING) for latency in latencies]
        self.begin()

    @override
    def begin(self) -> None:
        # An episode depends on its seeds alone, not on the episodes before it.
        self._delays, self._due = itertools.cycle(self._steps), 0

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        self._due = step + next(self._delays)
        future = Future[Chunk]()
        _fulfil(future, lambda: self._policy.infer(request))
        return future

    @override
    def usable(self, future: Future[Chunk], step: int) -> bool:
        return step >= self._due


class RealTimeRunner(InferenceRunner):
    """Real time: a thread computes, and a chunk can be used once it is there."""

    blocks = True

    def __init__(self, policy: ChunkPolicy, latencies: Sequence[float] = (0.0,)) -> None:
        """Starts the thread.

        Args:
            policy: Computes the chunks.
            latencies: In s; what the requests take at least, in turn and over and over.
        """
        self._jobs = queue.SimpleQueue[_Job | None]()
        self._latencies = itertools.cycle(latencies)
        # A daemon: a policy that hangs must not keep the program from its end.
        thread = threading.Thread(target=_work, args=(policy, self._jobs), name="inference", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _finish, self._jobs, thread)

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        future = Future[Chunk]()
        self._jobs.put((future, request, next(self._latencies)))
        return future

    @override
    def usable(self, future: Future[Chunk], step: int) -> bool:
        return future.done()

    @override
    def close(self) -> None:
        self._end()


_Job = tuple["Future[Chunk]", ChunkRequest, float]


def _finish(jobs: queue.SimpleQueue[_Job | None], thread: threading.Thread) -> None:
    jobs.put(None)
    # An interpreter that ends while a thread is in torch aborts the process.
    if thread is not threading.current_thread():
        thread.join(_LAST_CHUNK)


def _work(policy: ChunkPolicy, jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        _answer(policy, *job)
        del job  # an idle thread keeps no pictures


def _answer(policy: ChunkPolicy, future: Future[Chunk], request: ChunkRequest, latency: float) -> None:
    """Computes a chunk that takes ``latency`` in s at least, unless nobody waits for it any more."""
    if not future.set_running_or_notify_cancel():
        return
    due = time.monotonic() + latency

    def compute() -> Chunk:
        chunk = policy.infer(request)
        time.sleep(max(0.0, due - time.monotonic()))
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
