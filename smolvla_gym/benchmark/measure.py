"""Speed, memory and soundness of a policy, measured in this process through the agent's own calls.

:mod:`smolvla_gym.benchmark.worker` measures each policy in a process of its own, which keeps their memory apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, override

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.benchmark.inputs import INPUTS, noise_requests
from smolvla_gym.benchmark.machine import read_memory, watch_other_programs
from smolvla_gym.errors import ActionError, OptionError

DEFINITIONS: Final[Mapping[str, str]] = {
    "chunk": "wall-clock time from an observation to its chunk of actions in rad on the host; resizing, tokenising, "
    "copying to the device and back are part of it",
    "warm-up": "the chunks before those that count, on inputs of the same kind: they load kernels, fill caches and, "
    "with --compile, compile; with the first one the fast sampler is checked against LeRobot's code",
    "chunks/s": "one over the mean time of a chunk",
    "actions/s": "chunks/s times the actions of each chunk that are executed (n_action_steps)",
    "queue pop": "SmolVLAAgent.act while its queue holds actions",
    "smoothness": "mean absolute difference between successive actions of a chunk, over its seven components (rad, and "
    "the gripper's opening 0..1)",
    "memory": "1 GB = 1e9 bytes. Host: the peak of the process, Python and torch included. Device: the most that torch "
    "took from it, without the driver's context. The fast sampler's includes LeRobot's, which checks its first chunks",
    "growth": "memory after the last chunks less that after the first ones, each the median of several; no leak up to "
    "10 MB, or on the host 2 % of its peak",
}
"""Meaning of the figures."""

_LEAK: Final = (10e6, 0.02)
"""Growth that is no leak yet: in bytes, and on the host as a share of its peak, which allocators need by themselves."""

_REQUESTS: Final = 8
"""Number of different requests, which are sent in turn."""

_FEWEST: Final = 3
"""Chunks that are measured even after the time budget is used up."""

Progress = Callable[[str, int, int], None]
"""Takes the name of a stage, the number of its steps that are done, and the number of all its steps."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Amount and inputs of a measurement.

    Attributes:
        chunks: Chunks that count.
        warm_up: Chunks before them.
        budget_s: Time in s after which no further chunk is begun; None: no limit.
        samples: Chunks whose actions are evaluated: for smoothness, and to compare policies.
        inputs: Kind of the requests of those: ``"noise"``, random images, or ``"sim"``, scenes of the simulation. The
            time of a chunk does not depend on it.
        seed: Seed of all inputs.
    """

    chunks: int = 100
    warm_up: int = 3
    budget_s: float | None = None
    samples: int = 8
    inputs: str = "noise"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: A number is too small, or the inputs are unknown.
        """
        for name, low in (("chunks", _FEWEST), ("warm_up", 1), ("samples", 1)):
            if getattr(self, name) < low:
                raise OptionError(name, getattr(self, name), f"at least {low}")
        if self.inputs not in INPUTS:
            raise OptionError("inputs", self.inputs, " or ".join(INPUTS))

    def quick(self) -> BenchmarkOptions:
        """Return options for a first impression: at most ten chunks, and at most ten seconds of them."""
        return replace(self, chunks=min(self.chunks, 10), warm_up=1, budget_s=10.0, samples=2)


@dataclass(frozen=True)
class Spread:
    """Distribution of times in ms.

    Attributes:
        mean: Mean.
        p50: Median.
        p95: 95th percentile.
        p99: 99th percentile.
        max: Longest time.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the distribution of times in s."""
        ms = 1e3 * np.asarray(seconds)
        p50, p95, p99 = map(float, np.percentile(ms, (50, 95, 99)))
        return cls(float(ms.mean()), p50, p95, p99, float(ms.max()))


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Figures of a policy; :data:`DEFINITIONS` explains them.

    Attributes:
        shape: Shape of a chunk's actions.
        n_action_steps: Actions of a chunk that are executed.
        num_steps: Flow steps of a chunk.
        warm_up: Chunks that do not count.
        first_ms: Time of the first of them.
        chunks: Chunks that count.
        latency_ms: Their times.
        pop_ms: Times of taking an action from the queue; None for chunks of one action, which leave none there.
        not_finite: Number of all chunks with values that are not finite.
        smoothness: Smoothness; None if no chunk was finite.
        repeatable: Whether the same request gives the same bits twice.
        host_peak: Peak of the host's memory in bytes; None where the system does not report it.
        device_peak: Peak of the device's memory in bytes; None on the CPU.
        host_growth: Growth of the host's memory in bytes over the chunks that count.
        device_growth: Growth of the device's memory in bytes.
        other_cores: Cores that other programs kept busy meanwhile; None where the system does not report it.
        samples: Chunks that were evaluated; None for one that is not finite. Not in JSON.
    """

    shape: tuple[int, ...]
    n_action_steps: int
    num_steps: int
    warm_up: int
    first_ms: float
    chunks: int
    latency_ms: Spread
    pop_ms: Spread | None
    not_finite: int
    smoothness: float | None
    repeatable: bool
    host_peak: int | None
    device_peak: int | None
    host_growth: int | None
    device_growth: int | None
    other_cores: float | None
    samples: tuple[Chunk | None, ...]

    @property
    def chunks_per_s(self) -> float:
        """Chunks a second."""
        return 1e3 / self.latency_ms.mean

    @property
    def actions_per_s(self) -> float:
        """Actions a second that these chunks provide."""
        return self.chunks_per_s * self.n_action_steps

    @property
    def leaks(self) -> bool:
        """Return whether memory grew by more than allocators need by themselves."""
        least, share = _LEAK
        host_limit = max(least, share * (self.host_peak or 0))
        return (self.host_growth or 0) > host_limit or (self.device_growth or 0) > least

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        figures = asdict(replace(self, samples=()))
        del figures["samples"]
        return figures | {name: getattr(self, name) for name in ("chunks_per_s", "actions_per_s", "leaks")}


def run_benchmark(
    policy: ChunkPolicy, options: BenchmarkOptions | None = None, progress: Progress = ignore_progress
) -> Benchmark:
    """Measure a policy.

    Args:
        policy: A policy that has computed nothing yet; otherwise the time of the first chunk means nothing.
        options: Amount of the measurement.
        progress: Called after each chunk.

    Returns:
        The figures, also of a policy whose actions are not finite.
    """
    options = options or BenchmarkOptions()
    card = policy.card
    not_finite = 0

    def infer(request: ChunkRequest) -> Chunk | None:
        nonlocal not_finite
        try:
            return policy.infer(request)
        except ActionError:
            not_finite += 1
            return None

    requests, memory = noise_requests(card, _REQUESTS, options.seed), []

    def after_chunk(done: int, total: int) -> None:
        memory.append(read_memory(card.device))
        progress("chunks", done, total)

    progress("warm-up", 0, options.warm_up)
    (warm_up,) = time_chunks([infer], requests, options.warm_up, after=lambda *count: progress("warm-up", *count))
    other_cores = watch_other_programs()
    (times,) = time_chunks([infer], requests, options.chunks, budget_s=options.budget_s, after=after_chunk)
    busy, peak = other_cores(), read_memory(card.device)

    samples, inputs = [], INPUTS[options.inputs](card, options.samples, options.seed)
    for request in [*inputs, inputs[0]]:  # the first one again
        samples.append(infer(request))
        progress("samples", len(samples), len(inputs) + 1)
    *samples, again = samples

    finite = [chunk for chunk in samples if chunk is not None]
    pops = time_pops(card, finite[0], inputs[0]) if finite else []
    return Benchmark(
        shape=finite[0].actions.shape if finite else (card.chunk_size, 0),
        n_action_steps=card.n_action_steps,
        num_steps=card.num_steps,
        warm_up=options.warm_up,
        first_ms=1e3 * warm_up[0],
        chunks=len(times),
        latency_ms=Spread.of(times),
        pop_ms=Spread.of(pops) if pops else None,
        not_finite=not_finite,
        smoothness=float(np.mean([smoothness(chunk) for chunk in finite])) if finite else None,
        repeatable=_is_same(samples[0], again),
        host_peak=peak.host_peak,
        device_peak=peak.device_peak,
        host_growth=_growth([state.host for state in memory]),
        device_growth=_growth([state.device for state in memory]),
        other_cores=busy,
        samples=tuple(samples),
    )


def time_chunks(
    infers: Sequence[Callable[[ChunkRequest], object]],
    requests: Sequence[ChunkRequest],
    count: int,
    *,
    budget_s: float | None = None,
    after: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[float]]:
    """Return the times of chunks in s, a list for each policy.

    The policies compute in turn, so that other load on the machine slows all of them alike.

    Args:
        infers: ``policy.infer`` of each policy, after its warm-up.
        requests: Requests, which are repeated.
        count: Chunks of each policy.
        budget_s: Time in s after which no further chunk is begun, but for the first three; None: no limit.
        after: Called after each round with the number of chunks of each policy so far, and ``count``.

    Example:
        >>> fast, slow = time_chunks([a.infer, b.infer], noise_requests(a.card, 8), 50)  # doctest: +SKIP
    """
    times: list[list[float]] = [[] for _ in infers]
    began = time.perf_counter()
    for number in range(count):
        for infer, row in zip(infers, times, strict=True):
            start = time.perf_counter()
            infer(requests[number % len(requests)])
            row.append(time.perf_counter() - start)
        after(number + 1, count)
        if budget_s is not None and number + 1 >= _FEWEST and time.perf_counter() - began > budget_s:
            break
    return times


def time_pops(card: PolicyCard, chunk: Chunk, request: ChunkRequest, count: int = 1000) -> list[float]:
    """Return the times in s that ``SmolVLAAgent.act`` takes while its queue holds actions.

    Args:
        card: The policy's card.
        chunk: Content of the queue.
        request: The request whose observation the agent gets.
        count: Number of actions to take.

    Returns:
        The times; none for chunks of one action, which leave nothing in the queue.
    """
    if len(chunk.actions) < 2:
        return []
    agent = SmolVLAAgent(_Replay(card, chunk), n_action_steps=len(chunk.actions))
    agent.reset(request.instruction, seed=0)
    times: list[float] = []
    while len(times) < count:
        is_pop, start = agent.queue_length > 0, time.perf_counter()
        agent.act(request.observation)
        if is_pop:
            times.append(time.perf_counter() - start)
    return times


def smoothness(chunk: Chunk) -> float:
    """Return the mean absolute difference between successive actions, in rad and gripper opening."""
    return float(np.abs(np.diff(chunk.actions, axis=0)).mean()) if len(chunk.actions) > 1 else 0.0


def _is_same(one: Chunk | None, other: Chunk | None) -> bool:
    if one is None or other is None:
        return False
    return np.array_equal(one.actions, other.actions) and np.array_equal(one.normalized, other.normalized)


def _growth(values: Sequence[int | None]) -> int | None:
    """Return the median of the last fifth less that of the first one; a single value may be an outlier."""
    known = [value for value in values if value is not None]
    part = max(1, len(known) // 5)
    return int(np.median(known[-part:]) - np.median(known[:part])) if known else None


class _Replay(ChunkPolicy):
    """Policy that returns the same chunk at once, so that only the queue is measured."""

    def __init__(self, card: PolicyCard, chunk: Chunk) -> None:
        self._card, self._chunk = card, chunk

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        return self._chunk
