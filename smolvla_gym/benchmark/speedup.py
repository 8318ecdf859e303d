"""The fast sampler against LeRobot's own code: the same policy, inputs and noise, in turn, in one process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from smolvla_gym.agent.policies.base import ChunkRequest
from smolvla_gym.benchmark.benchmark import BenchmarkOptions, Progress, Spread, time_chunks
from smolvla_gym.benchmark.difference import Difference, compare_policies
from smolvla_gym.benchmark.stages import Stage, measure_stages

if TYPE_CHECKING:
    from smolvla_gym.agent.policies.local import LocalPolicy

_WARM_UP: Final = 2


@dataclass(frozen=True)
class Speedup:
    """What was found.

    Attributes:
        reference: Times of chunks by LeRobot's code.
        fast: Times by the fast sampler.
        ratio: How many times as long LeRobot's code takes: the median over the pairs of chunks.
        difference: How far the chunks are apart.
        stages: Where the fast sampler's time goes.
    """

    reference: Spread
    fast: Spread
    ratio: float
    difference: Difference
    stages: list[Stage]

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON; names of times end in ``_ms``."""
        return {
            "reference_ms": asdict(self.reference),
            "fast_ms": asdict(self.fast),
            "ratio": self.ratio,
            "difference": self.difference.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
        }


def measure_speedup(
    fast: LocalPolicy,
    reference: LocalPolicy,
    requests: list[ChunkRequest],
    options: BenchmarkOptions,
    progress: Progress = lambda doing, done, total: None,
) -> Speedup:
    """Measures both ways.

    Args:
        fast: The policy with the fast sampler.
        reference: The same with LeRobot's code; they may share one checkpoint.
        requests: What they are asked, over and over.
        options: How many chunks, and for how long.
        progress: Called after each pair of chunks.
    """
    for ask in (fast.infer, reference.infer):
        for _ in range(_WARM_UP):
            ask(requests[0])
    times = time_chunks(
        [reference.infer, fast.infer], requests, options.chunks, budget_s=options.budget_s,
        after=lambda done, total: progress("both ways", done, total),
    )  # fmt: skip
    slow, quick = (np.array(row) for row in times)
    return Speedup(
        reference=Spread.of(times[0]),
        fast=Spread.of(times[1]),
        ratio=float(np.median(slow / quick)),
        difference=compare_policies(reference, fast, requests[: options.samples]),
        stages=measure_stages(fast, requests[0]),
    )
