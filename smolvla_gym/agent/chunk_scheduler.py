"""When chunks are asked for and how they are put together: sync, async and real-time chunking."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.action_queue import ActionQueue
from smolvla_gym.agent.aggregation import Aggregate, get_aggregate
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

MODES: Final = ("sync", "async", "rtc")

_REMEMBERED: Final = 10
"""How many of the latest delays count: a slow chunk is forgotten after so many others."""


@dataclass(frozen=True)
class ChunkingOptions:
    """When chunks are asked for and how they are put together.

    Attributes:
        mode: ``"sync"``: the next chunk is asked for when the queue is empty, and the arm holds until it comes.
            ``"async"``: it is asked for earlier and put in where it belongs; actions for the same moments are
            aggregated. ``"rtc"``: as async, but each chunk is made to continue the one before, and replaces it.
        n_action_steps: Actions of each chunk that may be executed.
        queue_threshold: Number of actions left at which the next chunk is asked for.
        aggregate: Makes one of two chunks' actions.
        timeout_s: How long a chunk may take in s before it is an error.
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
        """Checks options and fills in those that are None for a policy.

        Args:
            card: The policy.
            mode: See above.
            n_action_steps: None: in sync the policy's own number, otherwise all.
            queue_threshold: None: in sync 0, otherwise half of ``n_action_steps``, or what is left of them when the
                policy's own number has been executed, if that is sooner: after so many it wants to look again.
            aggregate: Name of a function; None: ``"weighted_average"`` in async. The other modes have none.
            timeout_s: See above.

        Raises:
            OptionError: A value is not allowed.
            UnknownNameError: There is no mode or function of this name.
        """
        if mode not in MODES:
            raise UnknownNameError("mode", mode, MODES)
        size, sync = card.chunk_size, mode == "sync"
        steps = (card.n_action_steps if sync else size) if n_action_steps is None else n_action_steps
        _check_whole("n_action_steps", steps, 1, size, f"{size} being the length of a chunk")
        early = max(steps // 2, steps - card.n_action_steps)
        threshold = (0 if sync else early) if queue_threshold is None else queue_threshold
        if sync and threshold != 0:
            raise OptionError("queue_threshold", queue_threshold, "0 or None with mode='sync'")
        _check_whole("queue_threshold", threshold, 0, steps - 1, f"n_action_steps being {steps}")
        if aggregate is not None and mode != "async":
            raise OptionError("aggregate", aggregate, f"None with mode={mode!r}; only mode='async' aggregates")
        default = {"sync": "latest_only", "async": "weighted_average", "rtc": "short_crossfade"}[mode]
        function = get_aggregate(default if aggregate is None else aggregate)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0.0 < timeout_s < float("inf"):
            raise OptionError("timeout_s", timeout_s, "a finite number of s above 0")
        return cls(mode, steps, threshold, function, float(timeout_s))


class ChunkScheduler:
    """Turns observations into actions, one a control step, out of chunks that come when they come."""

    def __init__(self, card: PolicyCard, pipeline: InferenceRunner, options: ChunkingOptions) -> None:
        """Begins with an empty queue.

        Args:
            card: The policy.
            pipeline: Computes its chunks.
            options: See there.
        """
        self._card, self._pipeline, self._options = card, pipeline, options
        self._delays = deque[int](maxlen=_REMEMBERED)
        self._pending: Future[Chunk] | None = None
        self._abandoned: Future[Chunk] | None = None  # the latest that was being computed when it was given up
        self.reset("", np.random.default_rng(0))

    def reset(self, instruction: str, rng: np.random.Generator) -> None:
        """Begins an episode. A chunk that is still being computed will not be used.

        Args:
            instruction: What to do, in words.
            rng: Source of the noise that chunks are made of.
        """
        self._instruction, self._rng = instruction, rng
        self._pipeline.begin()
        if not self._pipeline.blocks:  # simulated delays are known again after the first chunk
            self._delays.clear()
        self._queue = ActionQueue()
        self._noise = TimeAlignedNoise((self._card.chunk_size, self._card.noise_width))
        self._give_up()
        self._asked_step = self._asked_at = 0
        self._asked_behind = False  # the request has to wait until a chunk that was given up is computed
        self._last: Array | None = None
        self._fresh = False  # the next action is the first one of a chunk
        self.statistics = AgentStatistics()

    def __len__(self) -> int:
        """Returns the number of actions in the queue."""
        return len(self._queue)

    @property
    def plan(self) -> Array:
        """The actions in the queue, shape (n, 7)."""
        return self._queue.planned

    @property
    def lost(self) -> PolicyConnectionError | None:
        """Why the latest request has to be made again; None where it does not."""
        return self._lost

    def step(self, observation: Observation) -> Array:
        """Returns the next action, shape (7,): where nothing is planned, the one that holds the arm.

        Raises:
            SmolVLAGymError: The policy failed or takes too long. The queue is empty then, and the next call asks again.
        """
        try:
            self._take()
            if self._pending is None and len(self._queue) <= self._options.queue_threshold:
                self._ask(observation)
                if self._options.mode == "sync" and self._pipeline.blocks:
                    self._wait()
                self._take()
        except BaseException:
            self._give_up()
            self._queue.clear()
            raise
        return self._next(observation)

    def _give_up(self) -> None:
        """Lets go of the request that was not answered yet."""
        if self._pending is not None and not self._pending.cancel() and self._pending.running():
            self._abandoned = self._pending
        self._pending = None
        self._asked_time: float | None = None  # of the first request that was not answered yet
        self._lost: PolicyConnectionError | None = None  # why the latest of them has to be made again

    def _next(self, observation: Observation) -> Array:
        action = self._queue.pop()
        before = self._last
        self.statistics.holding = action is None
        if action is None:
            if self.statistics.chunks:
                self.statistics.stalled_steps += 1
            else:
                self.statistics.waited_steps += 1
            # To stay where it is at first, later where it was sent: the pose it is on its way to is a planned one.
            action = np.array(check_state(observation.get("agent_pos"))) if before is None else before
        self.statistics.note(before, action, border=self._fresh)
        self._fresh = False
        self._last = action
        return action.copy()

    def _ask(self, observation: Observation) -> None:
        observation = check_observation(self._card, observation)
        leftover = None
        delay = 0
        if self._options.mode == "rtc" and len(self._queue):
            leftover = self._queue.leftover
            delay = min(max(self._delays, default=0), len(leftover))
        noise = self._noise.draw(self._rng, self._queue.executed, len(self._queue))
        request = ChunkRequest(observation, self._instruction, noise, leftover, delay)
        self._asked_step, self._asked_at = self.statistics.steps, self._queue.executed
        self._asked_behind = self._abandoned is not None and self._abandoned.running()
        if self._asked_time is None:
            self._asked_time = time.monotonic()
        self._pending = self._pipeline.submit(request, self._asked_step)

    def _wait(self) -> None:
        """Waits for the chunk that is being computed, as long as it may take."""
        assert self._pending is not None  # noqa: S101 - narrows a type
        try:
            self._pending.exception(self._left())
        except FutureTimeoutError:
            raise self._too_late() from None

    def _take(self) -> None:
        """Puts the chunk that is being computed into the queue, once it may be used."""
        if self._pending is None:
            return
        step = self.statistics.steps
        if not self._pipeline.usable(self._pending, step):
            if self._pipeline.blocks and self._left() <= 0.0:
                raise self._too_late()
            return
        pending, self._pending = self._pending, None
        error = pending.exception()
        if isinstance(error, PolicyConnectionError) and self._left() > 0.0:
            self.statistics.retries += 1
            self._lost = error
            return
        if error is not None:
            raise _explain(error)
        self._asked_time, self._lost = None, None
        chunk = pending.result()
        steps = self._options.n_action_steps
        border = len(self._queue) > 0 or self.statistics.chunks > 0
        overdue = self._queue.merge(
            Chunk(chunk.actions[:steps], chunk.normalized[:steps]), self._asked_at, self._options.aggregate
        )
        delay = step - self._asked_step
        if not self._asked_behind:  # no later request waits for that chunk
            self._delays.append(delay)
        self._fresh = border
        self.statistics.chunks += 1
        self.statistics.expired_actions += overdue
        self.statistics.delays.append(delay)

    def _left(self) -> float:
        """Returns how much longer in s the policy may take."""
        assert self._asked_time is not None  # noqa: S101 - narrows a type
        return self._asked_time + self._options.timeout_s - time.monotonic()

    def _too_late(self) -> InferenceTimeoutError | PolicyConnectionError:
        if self._lost is not None:
            return PolicyConnectionError(f"{self._lost} For {self._options.timeout_s:g} s there was no chunk.")
        return InferenceTimeoutError(
            f"The policy {self._card.name!r} gave no chunk within {self._options.timeout_s:g} s. The arm holds. Is its "
            "device busy or hung? A policy that is that slow needs a larger timeout_s."
        )


def _explain(error: BaseException) -> BaseException:
    """Returns an error of this package as it is, and any other with what it means for the arm."""
    if isinstance(error, SmolVLAGymError):
        return error
    wrapped = InferenceError(f"The policy failed ({type(error).__name__}: {error}). The arm holds.")
    wrapped.__cause__ = error
    return wrapped


def _check_whole(name: str, value: Any, low: int, high: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(name, value, f"a whole number from {low} to {high}, {why}")
