"""Measurement of a policy in this process, through the agent's own calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, override

import numpy as np

from smolvla_gym.agent.policies.base import Chunk, ChunkPolicy, ChunkRequest, PolicyCard
from smolvla_gym.agent.smolvla_agent import SmolVLAAgent
from smolvla_gym.benchmark.inputs import INPUTS, noise_requests
from smolvla_gym.benchmark.machine import other_cpu_seconds, read_memory
from smolvla_gym.benchmark.report import Report
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.errors import ActionError, InferenceError

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy

Progress = Callable[[str, int, int], object]
"""Takes the name of a stage, the number of its steps that are done, and the number of all its steps."""

_FEWEST: Final = 3
"""Chunks that are measured even after the time budget is used up."""

_REQUESTS: Final = 8
"""Number of different requests, which are sent in turn."""

_POPS: Final = 1000
"""Number of actions that are taken off the queue."""


def measure(policy: LocalPolicy, variant: Variant, progress: Progress = lambda *state: None) -> Report:
    """Measure a policy.

    Args:
        policy: A policy that has computed nothing yet; otherwise the time of the first chunk means nothing.
        variant: Amount of the measurement.
        progress: Called after each chunk.

    Returns:
        The figures, also of a policy whose actions are not finite.
    """
    import torch

    from smolvla_gym.agent.checkpoint.precision import count_dtypes

    card, checkpoint, threads = policy.card, policy.checkpoint, torch.get_num_threads()
    not_finite, memory = 0, []

    def infer(request: ChunkRequest) -> Chunk | None:
        nonlocal not_finite
        try:
            return policy.infer(request)
        except ActionError:
            not_finite += 1
            return None

    def after_chunk(stage: str, done: int, total: int) -> None:
        memory.append(read_memory(card.device))
        progress(stage, done, total)

    requests, samples = noise_requests(card, _REQUESTS), INPUTS[variant.inputs](card, variant.samples)
    progress("warm-up", 0, variant.warm_up)
    (warm_up,) = time_chunks("warm-up", [infer], requests, variant.warm_up, progress=progress)
    if policy.fallback is not None and (variant.compile_mode or variant.compare):
        hint = " torch.compile needs a C++ compiler on a CPU and Triton on a GPU." if variant.compile_mode else ""
        why = f"LeRobot's own code has to compute the chunks: {policy.fallback}"
        raise InferenceError(f"Measuring {variant.policy!r} failed ({why}).{hint}")
    began, other = time.monotonic(), other_cpu_seconds()
    (times,) = time_chunks("chunks", [infer], requests, variant.chunks, variant.budget_s, after_chunk)
    elapsed, others = time.monotonic() - began, other_cpu_seconds()
    peak = read_memory(card.device)
    *chunks, again = [infer(request) for request in [*samples, samples[0]]]
    finite = [chunk for chunk in chunks if chunk is not None]
    pops = time_pops(card, finite[0], samples[0]) if finite else []
    parameters = list(checkpoint.policy.parameters())
    return Report(
        variant=variant,
        device=torch.cuda.get_device_name(card.device)
        if card.device.startswith("cuda")
        else f"{card.device}, {threads} threads",
        cameras=dict(checkpoint.spec.cameras),
        parameters=sum(parameter.numel() for parameter in parameters),
        left_out=checkpoint.left_out,
        dtypes=count_dtypes(checkpoint.policy),
        weights=sum(parameter.nbytes for parameter in parameters),
        sampler=policy.sampler,
        fallback=policy.fallback,
        shape=finite[0].actions.shape if finite else (card.chunk_size, 0),
        n_action_steps=card.n_action_steps,
        num_steps=card.num_steps,
        first_ms=1e3 * warm_up[0],
        chunks=len(times),
        latency_ms=spread(times),
        pop_ms=spread(pops) if pops else None,
        not_finite=not_finite,
        smoothness=float(np.mean([smoothness(chunk) for chunk in finite])) if finite else None,
        repeatable=chunks[0] is not None and again is not None and np.array_equal(chunks[0].actions, again.actions),
        host_peak=peak.host_peak,
        device_peak=peak.device_peak,
        host_growth=_growth([state.host for state in memory]),
        device_growth=_growth([state.device for state in memory]),
        other_cores=None if other is None or others is None else max(0.0, others - other) / elapsed,
        samples=chunks,
    )


def time_chunks(
    stage: str,
    infers: Sequence[Callable[[ChunkRequest], object]],
    requests: Sequence[ChunkRequest],
    count: int,
    budget_s: float | None = None,
    progress: Progress = lambda *state: None,
) -> list[list[float]]:
    """Return the times of chunks in s, a list for each policy.

    The policies compute in turn, so that other load on the machine slows all of them alike.

    Args:
        stage: Name of the stage.
        infers: ``policy.infer`` of each policy.
        requests: Requests, which are repeated.
        count: Chunks of each policy.
        budget_s: Time in s after which no further chunk is begun, but for the first three; None: no limit.
        progress: Called after each round.
    """
    times: list[list[float]] = [[] for _ in infers]
    began = time.perf_counter()
    for number in range(count):
        for infer, row in zip(infers, times, strict=True):
            start = time.perf_counter()
            infer(requests[number % len(requests)])
            row.append(time.perf_counter() - start)
        progress(stage, number + 1, count)
        if budget_s is not None and number + 1 >= _FEWEST and time.perf_counter() - began > budget_s:
            break
    return times


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return ``mean``, ``p50``, ``p95``, ``p99`` and ``max`` in ms of times in s."""
    ms = 1e3 * np.asarray(seconds)
    percentiles = {f"p{percent}": float(np.percentile(ms, percent)) for percent in (50, 95, 99)}
    return {"mean": float(ms.mean()), **percentiles, "max": float(ms.max())}


def time_pops(card: PolicyCard, chunk: Chunk, request: ChunkRequest) -> list[float]:
    """Return the times in s that ``SmolVLAAgent.act`` takes while its queue holds actions.

    Args:
        card: The policy's card.
        chunk: Content of the queue; a chunk of one action leaves nothing in it, and there are no times.
        request: The request whose observation the agent gets.
    """
    if len(chunk.actions) < 2:
        return []
    agent = SmolVLAAgent(_Replay(card, chunk), n_action_steps=len(chunk.actions))
    agent.reset(request.instruction, seed=0)
    times: list[float] = []
    while len(times) < _POPS:
        is_pop, start = agent.queue_length > 0, time.perf_counter()
        agent.act(request.observation)
        if is_pop:
            times.append(time.perf_counter() - start)
    return times


def smoothness(chunk: Chunk) -> float:
    """Return the mean absolute difference between successive actions, in rad and gripper opening."""
    return float(np.abs(np.diff(chunk.actions, axis=0)).mean()) if len(chunk.actions) > 1 else 0.0


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
