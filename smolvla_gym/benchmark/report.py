"""Figures of a variant, what is expected of them, and the difference of the actions of two variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.benchmark.variant import Variant
from smolvla_gym.parol6 import GRIPPERS, NUM_JOINTS, forward_kinematics


@dataclass(frozen=True, eq=False)
class Report:
    """Figures of a variant. Memory is in bytes, and None where it is not known.

    Attributes:
        variant: The variant.
        device: Name of the device, or number of torch's threads on the CPU.
        cameras: Size (height, width) in px of each image that it takes, by its own name for it.
        parameters: Number of parameters in memory.
        left_out: Number of further parameters in its file that no chunk uses: the language head.
        dtypes: Number of parameters of each type.
        weights: Size of the parameters in bytes.
        sampler: How its chunks were computed in fact.
        fallback: Why that is not the fast sampler; None: it is.
        shape: Shape of a chunk's actions.
        n_action_steps: Actions of a chunk that are executed.
        num_steps: Flow steps of a chunk.
        first_ms: Time of the first chunk, which loads kernels and compiles.
        chunks: Chunks that count.
        latency_ms: Their times from the observation to the actions in rad, see :func:`measure.spread`.
        pop_ms: Times of taking an action from the queue; None for chunks of one action, which leave none there.
        not_finite: Number of all chunks with values that are not finite.
        smoothness: Mean absolute difference between successive actions; None if no chunk was finite.
        repeatable: Whether the same request gives the same bits twice.
        host_peak: Peak of the host's memory, Python and torch included.
        device_peak: Peak of the device's memory.
        host_growth: Growth of the host's memory over the chunks that count.
        device_growth: Growth of the device's memory.
        other_cores: Cores that other programs kept busy meanwhile; None where the system does not report it.
        samples: Chunks that were evaluated; None for one that is not finite.
        speedup: The fast sampler against LeRobot's code, see :func:`stages.measure_speedup`; None: not compared.
        import_s: Time in s that importing torch and LeRobot took.
        load_s: Time in s after that until the policy was ready.
    """

    variant: Variant
    device: str
    cameras: dict[str, tuple[int, int]]
    parameters: int
    left_out: int
    dtypes: dict[str, int]
    weights: int
    sampler: str
    fallback: str | None
    shape: tuple[int, ...]
    n_action_steps: int
    num_steps: int
    first_ms: float
    chunks: int
    latency_ms: dict[str, float]
    pop_ms: dict[str, float] | None
    not_finite: int
    smoothness: float | None
    repeatable: bool
    host_peak: int | None
    device_peak: int | None
    host_growth: int | None
    device_growth: int | None
    other_cores: float | None
    samples: list[Chunk | None]
    speedup: dict[str, Any] | None = None
    import_s: float = 0.0
    load_s: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        """Chunks a second."""
        return 1e3 / self.latency_ms["mean"]

    @property
    def checks(self) -> dict[str, tuple[str, bool]]:
        """Expectations of the figures and whether each holds; none of the memory where its peak is not known."""
        peak = self.host_peak if self.device_peak is None else self.device_peak
        # Allocators need some memory by themselves: up to 10 MB, or on the host 2 % of its peak, is no leak.
        host_limit = max(10e6, 0.02 * (self.host_peak or 0))
        leaks = (self.host_growth or 0) > host_limit or (self.device_growth or 0) > 10e6
        checks = {
            "latency": ("< 150 ms", self.latency_ms["mean"] < 150.0),
            "rate": ("> 7/s", self.chunks_per_s > 7.0),
            "finite": ("no NaN, no Inf", self.not_finite == 0),
            "repeatable": ("the same bits", self.repeatable),
            "leak": ("none", not leaks),
        }
        return checks if peak is None else {**checks, "memory": ("< 8 GB", peak < 8e9)}

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [name for name, (_, passed) in self.checks.items() if not passed]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON, without the chunks."""
        figures = asdict(replace(self, samples=[]))
        del figures["samples"]
        return {"name": self.variant.name, "failed": self.failed, "chunks_per_s": self.chunks_per_s, **figures}


def compare_reports(reports: Sequence[Report]) -> dict[str, dict[str, float]]:
    """Return the distance of each report's chunks from those of its reference, by the variant's name.

    The reference is the same variant in float32 with the most flow steps, or else in its own type.
    """
    differences = {}
    for report in reports:
        same = [other for other in reports if _is_same_policy(other.variant, report.variant)]
        reference = max(same, key=lambda other: (other.variant.dtype == "float32", other.num_steps))
        pairs = zip(reference.samples, report.samples, strict=True)
        finite = [(one, other) for one, other in pairs if one is not None and other is not None]
        if reference is not report and finite:
            differences[report.variant.name] = compare_chunks(*zip(*finite, strict=True))
    return differences


def compare_chunks(reference: Sequence[Chunk], other: Sequence[Chunk]) -> dict[str, float]:
    """Return the distance between chunks of two policies for the same requests, at least one.

    ``joints_max`` and ``joints_mean`` are differences of the joints in rad, ``gripper_max`` of the gripper's opening
    (0..1), ``tool_max`` and ``tool_mean`` distances of the tool centre point in mm, and ``cosine_min`` is the smallest
    cosine of two chunks in the policy's own (normalised) units; 1 is the same direction.
    """
    one, two = (np.concatenate([chunk.actions for chunk in chunks]).astype(np.float64) for chunks in (reference, other))
    apart, gripper = np.abs(two - one), GRIPPERS["ssg48"]
    tools = [np.array([forward_kinematics(row[:NUM_JOINTS], gripper)[:3, 3] for row in rows]) for rows in (one, two)]
    a, b = (
        np.stack([chunk.normalized.astype(np.float64).ravel() for chunk in chunks]) for chunks in (reference, other)
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    distances = 1e3 * np.linalg.norm(tools[1] - tools[0], axis=1)
    return {
        "joints_max": float(apart[:, :NUM_JOINTS].max()),
        "joints_mean": float(apart[:, :NUM_JOINTS].mean()),
        "gripper_max": float(apart[:, NUM_JOINTS].max()),
        "tool_max": float(distances.max()),
        "tool_mean": float(distances.mean()),
        "cosine_min": float(np.min((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))),
    }


def _is_same_policy(one: Variant, other: Variant) -> bool:
    return replace(one, dtype=other.dtype, num_steps=other.num_steps) == other
