"""Run inference in simulated or in real time, and decide from which control step on a chunk may be used."""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final, override

import numpy as np

from smolvla_gym.agent.inference_thread import InferenceThread, run_job
from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest
from smolvla_gym.errors import OptionError

_ROUNDING: Final = 1e-9


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


def _steps_within(latency: float, control_hz: float) -> int:
    return math.ceil(latency * control_hz - _ROUNDING)


class InferenceRunner(ABC):
    """Computes one chunk at a time."""

    blocks: bool
    """True in real time, where a chunk arrives while the caller waits; in lockstep it takes control steps."""

    known_delay: int
    """Largest inference delay in control steps that the given latencies lead to; 0: there are none."""

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
        self._steps = [_steps_within(latency, control_hz) for latency in latencies]
        self.known_delay: int = max(self._steps)
        self.begin()

    @override
    def begin(self) -> None:
        # An episode depends on its seeds alone, not on the episodes before it.
        self._delays, self._usable_from = itertools.cycle(self._steps), 0

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        self._usable_from = step + next(self._delays)
        future = Future[Chunk]()
        run_job(future, lambda: self._policy.infer(request))
        return future

    @override
    def is_usable(self, future: Future[Chunk], step: int) -> bool:
        return step >= self._usable_from


class RealTimeRunner(InferenceRunner):
    """Real time: a thread computes, and a chunk may be used as soon as it is computed."""

    blocks = True

    def __init__(self, policy: ChunkPolicy, control_hz: float, latencies: Sequence[float] = (0.0,)) -> None:
        """Start the thread.

        Args:
            policy: Computes the chunks.
            control_hz: Control rate in Hz.
            latencies: Shortest time of a request in s; the requests take them in turn, repeatedly.
        """
        self._policy, self._thread = policy, InferenceThread()
        self._latencies = itertools.cycle(latencies)
        self.known_delay: int = max(_steps_within(latency, control_hz) for latency in latencies)

    @override
    def submit(self, request: ChunkRequest, step: int) -> Future[Chunk]:
        policy, latency = self._policy, next(self._latencies)

        def compute() -> Chunk:
            not_before = time.monotonic() + latency
            chunk = policy.infer(request)
            time.sleep(max(0.0, not_before - time.monotonic()))
            return chunk

        return self._thread.submit(compute)

    @override
    def is_usable(self, future: Future[Chunk], step: int) -> bool:
        return future.done()

    @override
    def close(self) -> None:
        self._thread.close()
