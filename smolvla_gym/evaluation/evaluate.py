"""Runs a policy in the simulation under several conditions, each with the same seeds, on several processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np

from smolvla_gym.agent.statistics import AgentStatistics
from smolvla_gym.evaluation.success import mcnemar, wilson_interval

_JOB: Final = 5
"""Episodes that a process takes at a time: few enough that all end together."""


@dataclass(frozen=True)
class Condition:
    """What a policy is evaluated under.

    Attributes:
        mode: How its chunks are put together.
        latency_ms: How long a chunk takes in ms of simulated time.
    """

    mode: str
    latency_ms: float


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated.

    Attributes:
        policy: A checkpoint's folder, a repository, or ``"bundled"``.
        device: Where it computes.
        env: Options of ``PAROL6Sim-v0``, without the cameras and their size, which the policy chooses.
        agent: Options of ``SmolVLAAgent`` that are the same in all conditions.
    """

    policy: str = "bundled"
    device: str = "auto"
    env: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.policy, self.device, repr(self.env), repr(self.agent)))


@dataclass(frozen=True)
class Outcome:
    """One episode.

    Attributes:
        seed: Seed of the env and of the agent.
        instruction: What the agent was told.
        success: Whether the task was solved.
        steps: Control steps taken.
        statistics: What became of the chunks.
    """

    seed: int
    instruction: str
    success: bool
    steps: int
    statistics: AgentStatistics


def evaluate(
    options: EvaluationOptions,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    workers: int = 1,
    progress: Callable[[Condition, Outcome], None] = lambda condition, outcome: None,
) -> dict[Condition, list[Outcome]]:
    """Runs every seed under every condition.

    An episode depends on its seed and its condition alone, so the result does not depend on the number of workers.

    Args:
        options: What is evaluated.
        conditions: Under what.
        seeds: Of the episodes.
        workers: Processes; 1 stays in this one.
        progress: Called with each episode once it is over, here, in no particular order.

    Returns:
        For each condition its episodes, in the order of the seeds.
    """
    jobs = [
        (options, condition, list(seeds[i : i + _JOB])) for condition in conditions for i in range(0, len(seeds), _JOB)
    ]
    results: dict[Condition, list[Outcome]] = {condition: [] for condition in conditions}

    def take(outcomes: list[tuple[Condition, Outcome]]) -> None:
        for condition, outcome in outcomes:
            results[condition].append(outcome)
            progress(condition, outcome)

    if workers == 1:
        for job in jobs:
            take(_run_job(job))
    else:
        # A process that was forked after drawing cannot draw.
        with multiprocessing.get_context("spawn").Pool(workers, _prepare_worker) as pool:
            for outcomes in pool.imap_unordered(_run_job, jobs):
                take(outcomes)
            pool.close()
            pool.join()  # told to terminate, they would be cut off while they free what they draw with
    for episodes in results.values():
        episodes.sort(key=lambda outcome: seeds.index(outcome.seed))
    return results


def _prepare_worker() -> None:
    import torch

    torch.set_num_threads(1)  # there are other workers
    os.environ["TQDM_DISABLE"] = "1"


@cache
def _setup(options: EvaluationOptions) -> tuple[Any, Any]:
    """Loads the policy and makes the env that it looks at, once a process."""
    import contextlib
    import sys

    import gymnasium as gym

    from smolvla_gym import SIM_ID
    from smolvla_gym.agent.checkpoint import load_checkpoint
    from smolvla_gym.agent.images import legible_size
    from smolvla_gym.agent.local_policy import LocalPolicy

    with contextlib.redirect_stdout(sys.stderr):
        policy = LocalPolicy(load_checkpoint(options.policy, device=options.device), name=options.policy)
    size = legible_size(next(iter(policy.card.cameras.values())))
    # It stays for the process's life; its OpenGL contexts have to be freed before MuJoCo ends OpenGL, which it
    # registers with the first picture: what is registered later runs earlier.
    env = gym.make(SIM_ID, cameras=policy.card.env_cameras, image_size=size, **options.env)
    env.reset(seed=0)
    atexit.register(env.close)
    return policy, env


def _run_job(job: tuple[EvaluationOptions, Condition, list[int]]) -> list[tuple[Condition, Outcome]]:
    options, condition, seeds = job
    from smolvla_gym.agent.smolvla import SmolVLAAgent

    policy, env = _setup(options)
    agent = SmolVLAAgent(policy, mode=condition.mode, latency_ms=condition.latency_ms, **options.agent)
    agent.attach(env)
    return [(condition, _run_episode(env, agent, seed)) for seed in seeds]


def _run_episode(env: Any, agent: Any, seed: int) -> Outcome:
    observation, info = env.reset(seed=seed)
    agent.reset(info["instruction"], seed=seed)
    steps, done, success = 0, False, False
    while not done:
        observation, _, terminated, truncated, info = env.step(agent.act(observation))
        steps += 1
        success = success or bool(info["is_success"])
        done = terminated or truncated
    return Outcome(seed, str(info["instruction"]), success, steps, agent.statistics)


def summarise(condition: Condition, outcomes: Sequence[Outcome], control_hz: float) -> dict[str, Any]:
    """Returns the figures of a condition.

    ``success_rate`` with its 95 % interval ``success_low`` .. ``success_high``; of the episodes that succeeded the
    median ``time_to_success_s``; per episode the means ``waited_steps`` (before the first chunk), ``stalled_steps``
    (later, with an empty queue) and ``chunks``; and over all episodes the 99th percentile and the largest of the
    changes of a joint from one command to the next, at the borders of chunks and inside them.
    """
    successes = [outcome for outcome in outcomes if outcome.success]
    low, high = wilson_interval(len(successes), len(outcomes))
    statistics = [outcome.statistics for outcome in outcomes]
    border = [jump for s in statistics for jump in s.border_jumps]
    inner = [jump for s in statistics for jump in s.inner_jumps]
    values = {
        "success_rate": len(successes) / len(outcomes),
        "success_low": low,
        "success_high": high,
        "time_to_success_s": float(np.median([o.steps for o in successes])) / control_hz if successes else None,
        "waited_steps": float(np.mean([s.waited_steps for s in statistics])),
        "stalled_steps": float(np.mean([s.stalled_steps for s in statistics])),
        "chunks": float(np.mean([s.chunks for s in statistics])),
        **_spread("border_jump", border),
        **_spread("inner_jump", inner),
    }
    rounded = {name: round(value, 5) if value is not None else None for name, value in values.items()}
    return {**asdict(condition), "episodes": len(outcomes), "successes": len(successes), **rounded}


def compare(condition: Condition, first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Returns how two policies did on the same seeds: how many ``both`` solved, ``first_only``, ``second_only`` and
    ``neither``, and ``p_value``, see :func:`smolvla_gym.evaluation.success.mcnemar`.
    """
    pairs = [(a.success, b.success) for a, b in zip(first, second, strict=True)]
    only = pairs.count((True, False)), pairs.count((False, True))
    return {
        **asdict(condition),
        "both": pairs.count((True, True)),
        "first_only": only[0],
        "second_only": only[1],
        "neither": pairs.count((False, False)),
        "p_value": round(mcnemar(*only), 5),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_p99_rad": float(np.percentile(values, 99)) if values else None,
        f"{name}_max_rad": max(values, default=None),
    }
