"""The fast sampler against LeRobot's own code: the same policy, inputs and noise, in turn, in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.benchmark.difference import Difference, compare_chunks
from smolvla_gym.benchmark.measure import BenchmarkOptions, Progress, Spread, ignore_progress, time_chunks
from smolvla_gym.benchmark.stages import Stage, measure_stages

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy


@dataclass(frozen=True)
class Speedup:
    """Gain of the fast sampler.

    Attributes:
        reference_ms: Times of chunks by LeRobot's code.
        fast_ms: Times of chunks by the fast sampler.
        ratio: Time of LeRobot's code over that of the fast sampler: the median over the pairs of chunks.
        difference: Distance between the chunks of both.
        stages: Stages of the fast sampler.
    """

    reference_ms: Spread
    fast_ms: Spread
    ratio: float
    difference: Difference
    stages: list[Stage]


def measure_speedup(
    fast: LocalPolicy,
    reference: LocalPolicy,
    requests: list[ChunkRequest],
    options: BenchmarkOptions,
    progress: Progress = ignore_progress,
) -> Speedup:
    """Measure both ways to compute a chunk.

    Args:
        fast: The policy with the fast sampler.
        reference: The same policy with LeRobot's code; they may share one checkpoint.
        requests: Requests, which are repeated.
        options: Number of chunks, and the time budget.
        progress: Called after each pair of chunks.
    """
    infers = [reference.infer, fast.infer]
    time_chunks(infers, requests[:1], 2)  # warm-up
    times = time_chunks(
        infers, requests, options.chunks, budget_s=options.budget_s,
        after=lambda *count: progress("both ways", *count),
    )  # fmt: skip
    slow, quick = (np.array(row) for row in times)
    expected, computed = ([infer(request) for request in requests[: options.samples]] for infer in infers)
    return Speedup(
        reference_ms=Spread.of(times[0]),
        fast_ms=Spread.of(times[1]),
        ratio=float(np.median(slow / quick)),
        difference=compare_chunks(expected, computed),
        stages=measure_stages(fast, requests[0]),
    )
