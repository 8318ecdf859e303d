"""Decide when action chunks are requested and how they are used: sync, async and real-time chunking (RTC).

A policy that was trained for inference delays gets, in RTC, the actions that are executed until its chunk is used: the
committed prefix. It is as long as the largest delay to expect, and the chunk is used when it has been executed, not
earlier: what is given is exactly what is executed.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Final

import numpy as np

from smolvla_gym.agent.action_queue import ActionQueue
from smolvla_gym.agent.aggregation import Aggregate, get_aggregate, latest_only
from smolvla_gym.agent.chunk_noise import TimeAlignedNoise
from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.agent.inference_runner import InferenceRunner
from smolvla_gym.agent.input_validation import check_observation, check_state
from smolvla_gym.agent.policies.base import Array, Chunk, ChunkRequest, Observation, PolicyCard
from smolvla_gym.errors import (
    InferenceError,
    InferenceTimeoutError,
    OptionError,
    PolicyConnectionError,
    SmolVLAGymError,
    UnknownNameError,
)
from smolvla_gym.utils.option_values import check_number, check_whole

MODES: Final = ("sync", "async", "rtc")

_DELAY_HISTORY: Final = 10
"""Number of recent inference delays that the RTC estimate uses: one slow chunk counts for that many chunks."""


@dataclass(frozen=True)
class ChunkingOptions:
    """Options of chunk scheduling.

    Attributes:
        mode: ``"sync"``: the next chunk is requested when the queue is empty, and the arm holds until it arrives.
            ``"async"`` (asynchronous inference): it is requested earlier and merged in time; actions for the same
            moments are aggregated. ``"rtc"`` (real-time chunking): as async, but each chunk continues the previous
            one, and replaces it.
        n_action_steps: Execution horizon: number of actions of each chunk that may be executed.
        queue_threshold: Number of planned actions at which the next chunk is requested.
        aggregate: Combines the overlapping actions of two chunks.
        timeout_s: Longest time in s for a chunk; after that the scheduler raises an error.
    """

    mode: str
    n_action_steps: int
    queue_threshold: int
    aggregate: Aggregate
    timeout_s: float

    @classmethod
    def choose(
        cls,
        card: PolicyCard,
        *,
        mode: str = "sync",
        n_action_steps: int | None = None,
        queue_threshold: int | None = None,
        aggregate: str | None = None,
        timeout_s: float = 10.0,
    ) -> ChunkingOptions:
        """Check options and replace None by the default for a policy.

        Args:
            card: The policy's card.
            mode: See the class.
            n_action_steps: None: in sync the policy's own number, otherwise the whole chunk.
            queue_threshold: None: in sync 0, otherwise half of ``n_action_steps``, or earlier if the policy's own
                execution horizon ends earlier: the number left when that many actions have been executed.
            aggregate: Name of a function; None: ``"weighted_average"`` in async. The other modes do not aggregate.
            timeout_s: See the class.

        Raises:
            OptionError: A value is not allowed.
            UnknownNameError: There is no mode or function of this name.
        """
        if mode not in MODES:
            raise UnknownNameError("mode", mode, MODES)
        size, sync = card.chunk_size, mode == "sync"
        steps = check_whole(
            "n_action_steps",
            (card.n_action_steps if sync else size) if n_action_steps is None else n_action_steps,
            f"a whole number from 1 to {size}, the length of a chunk",
            low=1,
            high=size,
        )
        early = max(steps // 2, steps - card.n_action_steps)
        threshold = (0 if sync else early) if queue_threshold is None else queue_threshold
        if sync and threshold != 0:
            raise OptionError("queue_threshold", queue_threshold, "0 or None with mode='sync'")
        threshold = check_whole(
            "queue_threshold",
            threshold,
            f"a whole number from 0 to {steps - 1}, less than n_action_steps",
            low=0,
            high=steps - 1,
        )
        if aggregate is not None and mode != "async":
            raise OptionError("aggregate", aggregate, f"None with mode={mode!r}; only mode='async' aggregates")
        default = {"sync": "latest_only", "async": "weighted_average", "rtc": "short_crossfade"}[mode]
        function = get_aggregate(default if aggregate is None else aggregate)
        timeout = check_number("timeout_s", timeout_s, "a finite number of s above 0", above=0.0)
        return cls(mode, steps, threshold, function, timeout)


class ChunkScheduler:
    """Turns observations into actions, one for each control step, from chunks that arrive with a delay."""

    def __init__(self, card: PolicyCard, runner: InferenceRunner, options: ChunkingOptions) -> None:
        """Create a scheduler with an empty queue.

        Args:
            card: The policy's card.
            runner: Computes the policy's chunks.
            options: When chunks are requested and how they are merged.
        """
        self._card, self._runner, self._options = card, runner, options
        self._delays = deque[int](maxlen=_DELAY_HISTORY)
        self._pending: Future[Chunk] | None = None
        self._abandoned: Future[Chunk] | None = None  # the latest request that was running when it was dropped
        self.reset("", np.random.default_rng(0))

    def reset(self, instruction: str, rng: np.random.Generator) -> None:
        """Begin an episode. A chunk that is still being computed will not be used.

        Args:
            instruction: The instruction in words.
            rng: Source of the noise that chunks are sampled from.
        """
        self._instruction, self._rng = instruction, rng
        self._runner.begin()
        if not self._runner.blocks:  # simulated delays are known again after the first chunk
            self._delays.clear()
        self._queue = ActionQueue()
        self._noise = TimeAlignedNoise((self._card.chunk_size, self._card.noise_width))
        self._drop_request()
        self._requested_step = self._requested_at = 0
        self._committed = 0  # actions that the pending chunk got as given
        self._arrived_step: int | None = None  # control step from which on the pending chunk could be used
        self._waits_for_abandoned = False  # the request starts after an abandoned chunk is computed
        self._last: Array | None = None
        self._is_first_of_chunk = False  # whether the next action is the first one of a chunk
        self.statistics: AgentStatistics = AgentStatistics()

    def __len__(self) -> int:
        """Return the number of planned actions."""
        return len(self._queue)

    @property
    def plan(self) -> Array:
        """The planned actions, shape (n, 7)."""
        return self._queue.planned

    @property
    def connection_error(self) -> PolicyConnectionError | None:
        """The connection error for which the latest request has to be repeated, or None."""
        return self._connection_error

    def step(self, observation: Observation) -> Array:
        """Return the next action, shape (7,). If no action is planned, it holds the arm.

        Raises:
            SmolVLAGymError: The policy failed or timed out. The queue is then empty, and the next call requests a
                chunk again.
        """
        try:
            self._take_chunk()
            if self._pending is None and len(self._queue) <= self._options.queue_threshold:
                self._request_chunk(observation)
                if self._options.mode == "sync" and self._runner.blocks:
                    self._wait_for_chunk()
                self._take_chunk()
        except BaseException:
            self._drop_request()
            self._queue.clear()
            raise
        return self._next_action(observation)

    def _drop_request(self) -> None:
        """Drop the pending request; its chunk will not be used."""
        if self._pending is not None and not self._pending.cancel() and self._pending.running():
            self._abandoned = self._pending
        self._pending = None
        self._requested_time: float | None = None  # of the first request since the latest chunk
        self._connection_error: PolicyConnectionError | None = None

    def _next_action(self, observation: Observation) -> Array:
        action = self._queue.pop()
        before = self._last
        self.statistics.holding = action is None
        if action is None:
            if self.statistics.chunks:
                self.statistics.stalled_steps += 1
            else:
                self.statistics.waited_steps += 1
            # Before the first action the arm holds its pose, later its last target: it may still be on the way there.
            action = np.array(check_state(observation.get("agent_pos"))) if before is None else before
        self.statistics.record(before, action, border=self._is_first_of_chunk)
        self._is_first_of_chunk = False
        self._last = action
        return action.copy()

    def _request_chunk(self, observation: Observation) -> None:
        observation = check_observation(self._card, observation)
        leftover = None
        delay = 0
        if self._options.mode == "rtc" and len(self._queue):
            leftover = self._queue.leftover
            delay = min(self._expected_delay(), len(leftover))
        noise = self._noise.draw(self._rng, self._queue.executed, len(self._queue))
        request = ChunkRequest(observation, self._instruction, noise, leftover, delay)
        self._requested_step, self._requested_at = self.statistics.steps, self._queue.executed
        self._committed, self._arrived_step = delay if self._card.max_delay else 0, None
        self._waits_for_abandoned = self._abandoned is not None and self._abandoned.running()
        if self._requested_time is None:
            self._requested_time = time.monotonic()
        self._pending = self._runner.submit(request, self._requested_step)

    def _expected_delay(self) -> int:
        """Return the largest inference delay of the latest chunks in control steps."""
        recent = max(self._delays, default=0)
        # A policy that relies on it is told the largest one before it occurs, if it is known.
        return max(recent, self._runner.known_delay) if self._card.max_delay else recent

    def _wait_for_chunk(self) -> None:
        """Wait until the pending chunk is computed, up to the timeout."""
        assert self._pending is not None  # noqa: S101 - narrows a type
        try:
            self._pending.exception(self._remaining_time())
        except FutureTimeoutError:
            raise self._timeout_error() from None

    def _take_chunk(self) -> None:
        """Merge the pending chunk into the queue if it may be used in this control step."""
        if self._pending is None:
            return
        step = self.statistics.steps
        if not self._runner.is_usable(self._pending, step):
            if self._runner.blocks and self._remaining_time() <= 0.0:
                raise self._timeout_error()
            return
        if self._arrived_step is None:
            self._arrived_step = step
        executed = self._queue.executed - self._requested_at
        if executed < self._committed and self._pending.exception() is None:
            return
        pending, self._pending = self._pending, None
        error = pending.exception()
        if isinstance(error, PolicyConnectionError) and self._remaining_time() > 0.0:
            self.statistics.retries += 1
            self._connection_error = error
            return
        if error is not None:
            raise _as_package_error(error)
        self._requested_time, self._connection_error = None, None
        chunk = pending.result()
        steps = self._options.n_action_steps
        follows_a_chunk = len(self._queue) > 0 or self.statistics.chunks > 0
        # A chunk that got all actions until now as given continues them by itself.
        continues = 0 < executed <= min(self._committed, self._card.max_delay)
        aggregate = latest_only if continues else self._options.aggregate
        expired = self._queue.merge(
            Chunk(chunk.actions[:steps], chunk.normalized[:steps]), self._requested_at, aggregate
        )
        delay = self._arrived_step - self._requested_step
        if not self._waits_for_abandoned:  # later requests will not wait for that chunk
            self._delays.append(delay)
        self._is_first_of_chunk = follows_a_chunk
        self.statistics.chunks += 1
        self.statistics.expired_actions += expired
        self.statistics.delays.append(delay)

    def _remaining_time(self) -> float:
        """Return the time in s until the timeout of the pending request."""
        assert self._requested_time is not None  # noqa: S101 - narrows a type
        return self._requested_time + self._options.timeout_s - time.monotonic()

    def _timeout_error(self) -> InferenceTimeoutError | PolicyConnectionError:
        if self._connection_error is not None:
            return PolicyConnectionError(
                f"{self._connection_error} There was no chunk for {self._options.timeout_s:g} s."
            )
        return InferenceTimeoutError(
            f"The policy {self._card.name!r} returned no chunk within {self._options.timeout_s:g} s. The arm holds. "
            "Check whether the policy's device is busy or hangs; a slow policy needs a larger timeout_s."
        )


def _as_package_error(error: BaseException) -> BaseException:
    """Return an error of this package unchanged, and any other error as an ``InferenceError``."""
    if isinstance(error, SmolVLAGymError):
        return error
    wrapped = InferenceError(f"The policy failed ({type(error).__name__}: {error}). The arm holds.")
    wrapped.__cause__ = error
    return wrapped
