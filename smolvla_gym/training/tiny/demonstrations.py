"""Demonstrations of the scripted experts, made robust by random starts and interruptions.

What an expert does next depends on the present state alone. So it may be interrupted at any time, by a drag at the tool
or by a policy that does as it likes for a while (DAgger), and show the way on from there. The interruption itself is
not recorded, and no chunk reaches across it: what is learnt from is always the expert undisturbed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from smolvla_gym import SIM_ID
from smolvla_gym.agent import SmolVLAAgent
from smolvla_gym.tasks import TASKS
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.interrupted_expert import InterruptedExpert, Segment, record_segments
from smolvla_gym.training.tiny.paraphrases import paraphrases
from smolvla_gym.utils.worker_pool import process_pool, threads

_RENDERED = (256, 128, 64)
"""Edges in px at which pictures are drawn before they are brought to the policy's size."""

_JOB = 5
"""Episodes that a process takes at a time: few, so that all of them have work until the end."""

_SENTENCES = 400
"""Paraphrases of each instruction, besides the env's own."""


@dataclass(frozen=True)
class DemonstrationOptions:
    """What to record.

    Attributes:
        task: Name of the task.
        episodes: How many episodes.
        first_seed: Seed of the first one; the others follow.
        cameras: Which cameras.
        image_size: Edge of the pictures in px.
        stride: Frames from one with pictures to the next. Drawing is most of the work, and more episodes teach more
            than more pictures of the same.
        randomization: Levels of the env's randomisation, one of which is drawn for each episode.
        hard_weight: How many times as often a frame is drawn in which another object is about as near as the
            named one; without it a policy learns to half ignore the instruction.
        policy: A checkpoint that takes over now and then, or None.
        latencies_ms: How long its chunks take, one of which is drawn for each episode: a policy that is to act on
            what it saw half a second ago has to know where that leads.
        workers: Processes; 1 stays in this one. Not looked at where there is a pool already.
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
    workers: int = 2


def collect(
    options: DemonstrationOptions,
    report: Callable[[int], None] = lambda done: None,
    *,
    pool: ProcessPoolExecutor | None = None,
) -> Frames:
    """Records demonstrations.

    Args:
        options: What to record.
        report: Called with the number of episodes done, from time to time.
        pool: Processes of :func:`smolvla_gym.utils.worker_pool.process_pool` that record, such as those of an earlier
            recording, since each takes seconds to begin; ``None`` for as many new ones as ``options`` say. They keep
            what they made, envs and policies, as long as the pool lives.

    Returns:
        The frames. Their auxiliary targets are, for every colour, the object's position in the tool frame and its
        place on the table, in m, and last the same of the goal mark; NaN where there is none. The referents are those
        of the object that is named, and of where it goes: the second object named, or the goal mark.

    Raises:
        SmolVLAGymError: A process was killed; of a pool that was given it is raised where that is left.
    """
    seeds = np.arange(options.first_seed, options.first_seed + options.episodes)
    jobs = [(options, chunk.tolist()) for chunk in np.array_split(seeds, math.ceil(options.episodes / _JOB))]
    parts: list[Segment] = []
    with contextlib.ExitStack() as stack:
        if pool is None and options.workers > 1:
            pool = stack.enter_context(process_pool(options.workers))
        run: Iterator[list[Segment]]
        if pool is None:
            kept = stack.enter_context(contextlib.closing(_Kept()))
            run = (_record(job, kept) for job in jobs)
        else:
            run = pool.map(_record_in_pool, jobs)
        done = 0
        # In the order of the seeds, so that the result does not depend on which worker was faster.
        for (_, chunk), recorded in zip(jobs, run, strict=True):
            parts += recorded
            done += len(chunk)
            report(done)
    return _join(parts, options)


type _Job = tuple[DemonstrationOptions, list[int]]
"""What to record, and the seeds."""


class _Kept:
    """Envs of one task, and agents: each takes longer to make than an episode."""

    def __init__(self) -> None:
        self._kind: tuple[str, tuple[str, ...]] = "", ()
        self._envs: dict[tuple[int, int, int], gym.Env[Any, Any]] = {}
        self._agents: dict[tuple[Path, float], SmolVLAAgent] = {}

    def env(self, options: DemonstrationOptions, rendered: int, level: int, objects: int) -> gym.Env[Any, Any]:
        kind = options.task, tuple(options.cameras)
        if self._kind != kind:
            self._close_envs()
            self._kind = kind
        key = rendered, level, objects
        if key not in self._envs:
            self._envs[key] = gym.make(
                SIM_ID, task=options.task, cameras=options.cameras, image_size=(rendered, rendered),
                randomization=level, num_objects=objects, disable_env_checker=True,
            )  # fmt: skip
        return self._envs[key]

    def agent(self, policy: Path, latency_ms: float) -> SmolVLAAgent:
        key = policy, latency_ms
        if key not in self._agents:
            late: dict[str, Any] = {"mode": "async", "latency_ms": latency_ms} if latency_ms else {}
            self._agents[key] = SmolVLAAgent.from_pretrained(policy, device="cpu", **late)
        return self._agents[key]

    def close(self) -> None:
        self._close_envs()
        while self._agents:
            self._agents.popitem()[1].close()

    def _close_envs(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()


_kept = _Kept()
"""Of a process that records for others."""


def _record_in_pool(job: _Job) -> list[Segment]:
    return _record(job, _kept)


def _record(job: _Job, kept: _Kept) -> list[Segment]:
    options, seeds = job
    # With a policy there may be other workers that compute beside this one.
    with contextlib.nullcontext() if options.policy is None else threads(1):
        return [part for seed in seeds for part in _demonstrate(options, seed, kept)]


def _demonstrate(options: DemonstrationOptions, seed: int, kept: _Kept) -> list[Segment]:
    rng = np.random.default_rng([seed, 1])
    # Most pictures are drawn large and averaged down, as in a rollout; some are drawn small, or sampled, so that
    # the policy does not depend on how a picture was made small.
    rendered = int(rng.choice(_RENDERED, p=(0.3, 0.5, 0.2)))
    sampled = rng.random() < 0.2
    objects = 2 if rng.random() < 0.3 else 3
    env = kept.env(options, rendered, int(rng.choice(options.randomization)), objects)
    agent = None if options.policy is None else kept.agent(options.policy, float(rng.choice(options.latencies_ms)))
    expert = InterruptedExpert(
        rng, cameras=options.cameras, image_size=options.image_size, stride=options.stride,
        hard_weight=options.hard_weight, sampled=sampled, policy=agent,
    )  # fmt: skip
    return record_segments(env, expert, seed)


def _join(parts: Sequence[Segment], options: DemonstrationOptions) -> Frames:
    meanings = sorted({part.meaning for part in parts})
    sentences, same = _sentences(options.task, meanings)
    lengths = np.array([len(part.states) for part in parts])
    starts = np.cumsum(lengths) - lengths
    return Frames(
        images={c: np.concatenate([np.stack(part.images[c]) for part in parts]) for c in options.cameras},
        states=np.concatenate([np.stack(part.states) for part in parts]),
        actions=np.concatenate([np.stack(part.actions) for part in parts]),
        instructions=sentences,
        instruction_ids=np.repeat([meanings.index(part.meaning) for part in parts], lengths).astype(np.int64),
        segments=np.repeat(np.arange(len(parts)), lengths).astype(np.int64),
        pictured=np.concatenate(
            [start + np.arange(0, n, options.stride) for start, n in zip(starts, lengths, strict=True)]
        ),
        targets=np.concatenate([np.stack(part.targets) for part in parts]),
        referents=np.concatenate([np.stack(part.referents) for part in parts]),
        weights=np.concatenate([np.array(part.weights) for part in parts]),
        paraphrases=same,
    )


def _sentences(task: str, meanings: Sequence[tuple[str, str, str]]) -> tuple[list[str], list[list[int]]]:
    """Returns sentences, those of the meanings first, and for each of them the numbers of those that mean the same."""
    rng = np.random.default_rng(0)
    phrases = (*TASKS[task].phrasings, *rng.permutation(paraphrases(task))[:_SENTENCES])
    sentences = [phrase.format(color=color, base=base) for phrase, color, base in meanings]
    colors = sorted({meaning[1:] for meaning in meanings})
    same = []
    for color, base in colors:
        spoken = [phrase.format(color=color, base=base) for phrase in phrases]
        same.append([len(sentences) + i for i in range(len(spoken))])
        sentences += spoken
    groups = [same[colors.index(meaning[1:])] for meaning in meanings]
    return sentences, groups + [group for group in same for _ in group]
