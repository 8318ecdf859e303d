"""How fast a policy is, and whether what it gives is sound: measured in this process, through the agent's own calls.

A process of its own for each policy keeps their peaks of memory apart: :mod:`smolvla_gym.benchmark.variants`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, override

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.benchmark.contention import OtherPrograms
from smolvla_gym.benchmark.inputs import INPUTS, noise_requests
from smolvla_gym.benchmark.memory import read_memory
from smolvla_gym.errors import ActionError, OptionError

DEFINITIONS: Final[Mapping[str, str]] = {
    "chunk": "wall-clock time from an observation to its chunk of actions in rad on the host; resizing, tokenising, "
    "copying to the device and back are part of it",
    "warm-up": "the chunks before those that count, on inputs of the same kind: they load kernels, fill caches and, "
    "where that was asked for, compile; with the first one the fast sampler is checked against LeRobot's code",
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
"""What the figures mean."""

_LEAK: Final = (10e6, 0.02)
"""Growth that is no leak yet: in bytes, and on the host as a share of its peak, which allocators need by themselves."""

_DIFFERENT: Final = 8
"""Requests that are asked in turn."""

_FEWEST: Final = 3
"""Chunks that are measured even where time is up."""

_POPS: Final = 1000

Progress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done and how much there is."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """How much is measured.

    Attributes:
        chunks: Chunks that count.
        warm_up: Chunks before them.
        budget_s: Time after which no further chunk is begun; None: there is no hurry.
        samples: Chunks whose actions are looked at: for smoothness, and to compare policies.
        inputs: What those are made from: ``"noise"``, random pictures, or ``"sim"``, scenes of the simulation. For the
            time of a chunk it makes no difference.
        seed: Seed of all inputs.
    """

    chunks: int = 100
    warm_up: int = 3
    budget_s: float | None = None
    samples: int = 8
    inputs: str = "noise"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            OptionError: A number is too small, or the inputs are unknown.
        """
        for name, low in (("chunks", _FEWEST), ("warm_up", 1), ("samples", 1)):
            if getattr(self, name) < low:
                raise OptionError(name, getattr(self, name), f"at least {low}")
        if self.inputs not in INPUTS:
            raise OptionError("inputs", self.inputs, " or ".join(INPUTS))

    def quick(self) -> BenchmarkOptions:
        """Returns options for a first look: ten chunks at most, and no more than ten seconds of them."""
        return replace(self, chunks=min(self.chunks, 10), warm_up=1, budget_s=10.0, samples=2)


@dataclass(frozen=True)
class Spread:
    """Times in ms.

    Attributes:
        mean: Their mean.
        p50: Their median.
        p95: The 95th percentile.
        p99: The 99th percentile.
        max: The longest.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Describes times in s."""
        ms = 1e3 * np.asarray(seconds)
        p50, p95, p99 = (float(np.percentile(ms, share)) for share in (50, 95, 99))
        return cls(float(ms.mean()), p50, p95, p99, float(ms.max()))


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What was measured; :data:`DEFINITIONS` says what it means.

    Attributes:
        shape: Of a chunk's actions.
        n_action_steps: How many of them are executed.
        num_steps: Flow steps a chunk.
        warm_up: Chunks that do not count.
        first_ms: Time of the first of them.
        chunks: Chunks that count.
        latency: Their times.
        pop: Times of taking an action out of the queue; None where there is nothing to take.
        not_finite: How many of all chunks had numbers that are not finite.
        smoothness: See there; None where no chunk was finite.
        repeatable: Whether the same request gives the same bits twice.
        host_peak: Memory in bytes; None where nobody can tell.
        device_peak: On the device; None on the CPU.
        host_growth: Growth over the chunks that count.
        device_growth: The same of the device.
        other_cores: How many cores other programs kept busy meanwhile; None where nobody can tell.
        samples: The chunks that were looked at; None for one that is not finite. Not in JSON.
    """

    shape: tuple[int, ...]
    n_action_steps: int
    num_steps: int
    warm_up: int
    first_ms: float
    chunks: int
    latency: Spread
    pop: Spread | None
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
        return 1e3 / self.latency.mean

    @property
    def actions_per_s(self) -> float:
        """Actions a second that they are good for."""
        return self.chunks_per_s * self.n_action_steps

    @property
    def leaks(self) -> bool:
        """Whether memory grew by more than what an allocator does by itself."""
        least, share = _LEAK
        host = self.host_growth or 0, max(least, share * (self.host_peak or 0))
        device = self.device_growth or 0, least
        return any(growth > limit for growth, limit in (host, device))

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON; names of times end in ``_ms``."""
        fields = {name: value for name, value in vars(self).items() if name not in ("latency", "pop", "samples")}
        return {
            **fields,
            "latency_ms": asdict(self.latency),
            "pop_ms": asdict(self.pop) if self.pop else None,
            "chunks_per_s": self.chunks_per_s,
            "actions_per_s": self.actions_per_s,
            "leaks": self.leaks,
        }


def run_benchmark(
    policy: ChunkPolicy,
    options: BenchmarkOptions | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Benchmark:
    """Measures a policy.

    Args:
        policy: It has computed nothing yet, or the first chunk tells nothing.
        options: How much is measured.
        progress: Called after each chunk.

    Returns:
        The figures. A policy whose actions are not finite has them too.
    """
    options = options or BenchmarkOptions()
    card = policy.card
    asked = _Tolerant(policy)
    requests = noise_requests(card, _DIFFERENT, options.seed)

    progress("warm-up", 0, options.warm_up)
    first = 0.0
    for number in range(options.warm_up):
        (seconds,) = time_chunks([asked.infer], requests, 1)[0]
        first = first or seconds
        progress("warm-up", number + 1, options.warm_up)
    memory = []

    def note(done: int, total: int) -> None:
        memory.append(read_memory(card.device))
        progress("chunks", done, total)

    others = OtherPrograms()
    (times,) = time_chunks([asked.infer], requests, options.chunks, budget_s=options.budget_s, after=note)
    other_cores = others.cores()
    peak = read_memory(card.device)

    looked_at = INPUTS[options.inputs](card, options.samples, options.seed)
    samples = []
    for number, request in enumerate(looked_at):
        samples.append(asked.infer(request))
        progress("samples", number + 1, len(looked_at) + 1)
    again = asked.infer(looked_at[0])
    progress("samples", len(looked_at) + 1, len(looked_at) + 1)

    finite = [chunk for chunk in samples if chunk is not None]
    pops = time_pops(card, finite[0], looked_at[0]) if finite else []
    return Benchmark(
        shape=finite[0].actions.shape if finite else (card.chunk_size, 0),
        n_action_steps=card.n_action_steps,
        num_steps=card.num_steps,
        warm_up=options.warm_up,
        first_ms=1e3 * first,
        chunks=len(times),
        latency=Spread.of(times),
        pop=Spread.of(pops) if pops else None,
        not_finite=asked.not_finite,
        smoothness=float(np.mean([smoothness(chunk) for chunk in finite])) if finite else None,
        repeatable=again is not None and samples[0] is not None and _same(again, samples[0]),
        host_peak=peak.host_peak,
        device_peak=peak.device_peak,
        host_growth=_growth([state.host for state in memory]),
        device_growth=_growth([state.device for state in memory]),
        other_cores=other_cores,
        samples=tuple(samples),
    )


def time_chunks(
    asks: Sequence[Callable[[ChunkRequest], object]],
    requests: Sequence[ChunkRequest],
    count: int,
    *,
    budget_s: float | None = None,
    after: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[float]]:
    """Measures how long chunks take.

    Several policies are asked in turn, so that whatever else slows the machine slows them alike.

    Args:
        asks: ``policy.infer`` of each policy; they were warmed up.
        requests: What they are asked, over and over.
        count: Chunks of each policy.
        budget_s: Time after which no further chunk is begun, but for the first three.
        after: Called after each round, with the chunks of each policy so far and those there will be at most.

    Returns:
        For each policy the times in s.

    Example:
        >>> fast, slow = time_chunks([a.infer, b.infer], noise_requests(a.card, 8), 50)  # doctest: +SKIP
    """
    times: list[list[float]] = [[] for _ in asks]
    began = time.perf_counter()
    for number in range(count):
        for ask, mine in zip(asks, times, strict=True):
            start = time.perf_counter()
            ask(requests[number % len(requests)])
            mine.append(time.perf_counter() - start)
        after(number + 1, count)
        if budget_s is not None and number + 1 >= _FEWEST and time.perf_counter() - began > budget_s:
            break
    return times


def time_pops(card: PolicyCard, chunk: Chunk, request: ChunkRequest, count: int = _POPS) -> list[float]:
    """Measures how long ``SmolVLAAgent.act`` takes while its queue holds actions.

    Args:
        card: The policy.
        chunk: What the queue is filled with.
        request: Whose observation the agent is shown.
        count: How many actions are taken.

    Returns:
        Times in s; none for chunks of one action, which leave nothing in the queue.
    """
    if len(chunk.actions) < 2:
        return []
    agent = SmolVLAAgent(_Replay(card, chunk), n_action_steps=len(chunk.actions))
    agent.reset(request.instruction, seed=0)
    times: list[float] = []
    while len(times) < count:
        if not agent.queue_length:
            agent.act(request.observation)
            continue
        start = time.perf_counter()
        agent.act(request.observation)
        times.append(time.perf_counter() - start)
    return times


def smoothness(chunk: Chunk) -> float:
    """Returns the mean absolute difference between successive actions, in rad and opening."""
    return float(np.abs(np.diff(chunk.actions, axis=0)).mean()) if len(chunk.actions) > 1 else 0.0


def _same(one: Chunk, other: Chunk) -> bool:
    return bool(np.array_equal(one.actions, other.actions) and np.array_equal(one.normalized, other.normalized))


def _growth(values: Sequence[int | None]) -> int | None:
    """Returns the median of the last fifth less that of the first one; a single value may be an outlier."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    part = max(1, len(known) // 5)
    return int(np.median(known[-part:]) - np.median(known[:part]))


class _Tolerant:
    """Asks a policy, and counts the chunks that are not finite."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self._policy = policy
        self.not_finite = 0

    def infer(self, request: ChunkRequest) -> Chunk | None:
        try:
            return self._policy.infer(request)
        except ActionError:
            self.not_finite += 1
            return None


class _Replay(ChunkPolicy):
    """Gives the same chunk to whoever asks, at once: what is measured is the queue."""

    def __init__(self, card: PolicyCard, chunk: Chunk) -> None:
        self._card, self._chunk = card, chunk

    @property
    @override
    def card(self) -> PolicyCard:
        return self._card

    @override
    def infer(self, request: ChunkRequest) -> Chunk:
        return self._chunk
