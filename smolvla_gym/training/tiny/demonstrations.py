"""Demonstrations of the scripted experts with random starts and interruptions, for a robust policy.

The next action of an expert depends on the present state only. An episode can therefore be interrupted at any time, by
moving the tool or by executing a policy for a while (DAgger), and the expert continues from there. The interruption
itself is not recorded, and no chunk reaches across it: all training data are actions of the undisturbed expert. Of a
late policy the last steps of an interruption may be recorded too, as given actions that the expert's follow.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym import SIM_ID
from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.agent.checkpoint.provenance import read_provenance
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.interrupted_expert import InterruptedExpert, record_segments
from smolvla_gym.training.tiny.segments import Segment, join_segments
from smolvla_gym.utils.worker_pool import process_pool, threads

_RENDERED: Final = (256, 128, 64)
"""Sides in px of the rendered images before they are resized for the policy."""

_JOB: Final = 5
"""Episodes that a worker records at a time: few, so that all workers are busy until the end."""


_JITTER: Final = (0.0, 0.6, -1.0, 0.2, -0.4, 1.0, -0.2, 0.4, -0.7)
"""Changes of the delay from chunk to chunk, relative to the largest."""


@dataclass(frozen=True)
class DemonstrationOptions:
    """Options of a recording.

    Attributes:
        task: Name of the task.
        episodes: Number of episodes.
        first_seed: Seed of the first episode; the others follow.
        cameras: Names of the cameras.
        image_size: Side of the images in px.
        stride: Frames from one with images to the next. Rendering takes most of the time, and more episodes improve a
            policy more than more images of the same episode.
        randomization: Levels of the env's domain randomization, one of which is drawn for each episode.
        hard_weight: Sampling weight of frames in which another object is about as near as the named one. With a
            weight of 1 a policy learns to partly ignore the instruction.
        policy: A checkpoint whose policy interrupts the expert; None: no policy does.
        latencies_ms: Inference delays of that policy in ms, one of which is drawn for each episode: a policy that
            will run with a delay needs demonstrations of the states that the delay leads to.
        jitter: Largest relative change of that delay from chunk to chunk, in both directions.
        belt_speeds: Speeds in m/s of the belt of a task that has one, one of which is drawn for each episode.
        committed: Largest number of steps before the end of an interruption that are recorded too, as given actions
            (``Frames.committed``); only training with a ``max_delay`` uses them.
        workers: Worker processes; 1: the calling process records. Not used with a pool.
    """

    task: str = "lift"
    episodes: int = 1000
    first_seed: int = 1_000_000
    cameras: tuple[str, ...] = ("wrist", "scene")
    image_size: int = 64
    stride: int = 3
    randomization: tuple[int, ...] = (1, 2)
    hard_weight: float = 4.0
    policy: Path | None = None
    latencies_ms: tuple[float, ...] = (0.0,)
    jitter: float = 0.0
    belt_speeds: tuple[float, ...] = (0.0, 0.02, 0.05)
    committed: int = 0
    workers: int = 2


def collect(
    options: DemonstrationOptions,
    report: Callable[[int], None] = lambda done: None,
    *,
    pool: ProcessPoolExecutor | None = None,
) -> Frames:
    """Record demonstrations.

    Args:
        options: Options of the recording.
        report: Called with the number of recorded episodes, from time to time.
        pool: Pool of :func:`smolvla_gym.utils.worker_pool.process_pool`, such as that of an earlier recording, since a
            worker takes seconds to start; None: a new pool of ``options.workers``. The workers keep their envs and
            policies as long as the pool exists.

    Returns:
        The frames; their ``targets`` and ``referents`` are those of
        :func:`smolvla_gym.training.tiny.labels.position_targets`.

    Raises:
        SmolVLAGymError: A worker was killed; for a given pool the error is raised where its block ends.
    """
    seeds = np.arange(options.first_seed, options.first_seed + options.episodes)
    jobs = [(options, chunk.tolist()) for chunk in np.array_split(seeds, math.ceil(options.episodes / _JOB))]
    parts: list[Segment] = []
    with contextlib.ExitStack() as stack:
        if pool is None and options.workers > 1:
            pool = stack.enter_context(process_pool(options.workers))
        run: Iterator[list[Segment]]
        if pool is None:
            cache = stack.enter_context(contextlib.closing(_Cache()))
            run = (_record(job, cache) for job in jobs)
        else:
            run = pool.map(_record_in_pool, jobs)
        done = 0
        # In the order of the seeds, so that the result does not depend on the speed of the workers.
        for (_, chunk), recorded in zip(jobs, run, strict=True):
            parts += recorded
            done += len(chunk)
            report(done)
    return join_segments(parts, options.task, options.stride)


type _Job = tuple[DemonstrationOptions, list[int]]
"""Options and seeds."""


class _Cache:
    """Cache of the envs of one task, and of agents: making one takes longer than an episode."""

    def __init__(self) -> None:
        self._kind: tuple[str, tuple[str, ...]] = "", ()
        self._envs: dict[tuple[int, int, int, float], gym.Env[Any, Any]] = {}
        self._agents: dict[tuple[Path, float, float], SmolVLAAgent] = {}

    def env(
        self, options: DemonstrationOptions, rendered: int, level: int, objects: int, belt_speed: float
    ) -> gym.Env[Any, Any]:
        kind = options.task, tuple(options.cameras)
        if self._kind != kind:
            self._close_envs()
            self._kind = kind
        key = rendered, level, objects, belt_speed
        if key not in self._envs:
            self._envs[key] = gym.make(
                SIM_ID, task=options.task, cameras=options.cameras, image_size=(rendered, rendered),
                randomization=level, num_objects=objects, belt_speed=belt_speed, disable_env_checker=True,
            )  # fmt: skip
        return self._envs[key]

    def agent(self, policy: Path, latency_ms: float, jitter: float) -> SmolVLAAgent:
        key = policy, latency_ms, jitter
        if key not in self._agents:
            trained = read_provenance(policy)
            mode = "rtc" if trained is not None and trained.rtc_max_delay else "async"
            # In turn, so that an episode meets short and long ones.
            late: dict[str, Any] = {}
            if latency_ms:
                late = {"mode": mode, "latency_ms": [latency_ms * (1 + jitter * share) for share in _JITTER]}
            self._agents[key] = SmolVLAAgent.from_pretrained(policy, device="cpu", **late)
        return self._agents[key]

    def close(self) -> None:
        self._close_envs()
        while self._agents:
            self._agents.popitem()[1].close()

    def _close_envs(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()


_cache = _Cache()
"""Cache of a worker process."""


def _record_in_pool(job: _Job) -> list[Segment]:
    return _record(job, _cache)


def _record(job: _Job, cache: _Cache) -> list[Segment]:
    options, seeds = job
    # With a policy, other workers may compute at the same time.
    with contextlib.nullcontext() if options.policy is None else threads(1):
        return [part for seed in seeds for part in _demonstrate(options, seed, cache)]


def _demonstrate(options: DemonstrationOptions, seed: int, cache: _Cache) -> list[Segment]:
    rng = np.random.default_rng([seed, 1])
    # Most images are rendered large and averaged down, as in a rollout. Some are rendered small, or sampled, so that
    # the policy does not depend on the method of resizing.
    rendered = int(rng.choice(_RENDERED, p=(0.3, 0.5, 0.2)))
    sampled = rng.random() < 0.2
    objects = 2 if rng.random() < 0.3 else 3
    level = int(rng.choice(options.randomization))
    agent = None
    if options.policy is not None:
        agent = cache.agent(options.policy, float(rng.choice(options.latencies_ms)), options.jitter)
    speed = float(rng.choice(options.belt_speeds)) if TASKS[options.task].has_belt else 0.0
    env = cache.env(options, rendered, level, objects, speed)
    expert = InterruptedExpert(
        rng, cameras=options.cameras, image_size=options.image_size, stride=options.stride,
        hard_weight=options.hard_weight, sampled=sampled, policy=agent, committed=options.committed,
    )  # fmt: skip
    return record_segments(env, expert, seed)
