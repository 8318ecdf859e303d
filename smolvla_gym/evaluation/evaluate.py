"""Runs a policy in the simulation under several conditions, each with the same seeds, on several processes."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from smolvla_gym.agent.chunk_statistics import AgentStatistics
from smolvla_gym.episodes.observer import EpisodeObserver, Watch
from smolvla_gym.evaluation.success import mcnemar, wilson_interval
from smolvla_gym.utils.worker_pool import process_pool, threads

if TYPE_CHECKING:
    from smolvla_gym.episodes.video import EpisodeVideo

WORDS: Final = ("given", "swapped", "unseen")
"""What the agent is told: the env's instruction; the same with another object of the same scene named, whose success
shows that words are heeded; or the same in a phrasing that no training data contains."""


@dataclass(frozen=True)
class Condition:
    """What a policy is evaluated under.

    Attributes:
        mode: How its chunks are put together.
        latency_ms: How long a chunk takes in ms of simulated time.
        task: What is to be done.
        words: One of ``WORDS``.
        num_steps: Flow steps a chunk; None: the checkpoint's own.
    """

    mode: str
    latency_ms: float
    task: str = "lift"
    words: str = "given"
    num_steps: int | None = None


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated.

    Attributes:
        policy: A checkpoint's folder, a repository, or ``"bundled"``.
        device: Where it computes.
        dtype: What type it computes in, see ``SmolVLAAgent.from_pretrained``.
        compile_mode: A mode of ``torch.compile``, or None.
        camera_map: Env camera by policy camera, for those whose names differ; None leaves a camera out.
        env: Options of ``PAROL6Sim-v0``, without the task, which the condition has, and the cameras and their size,
            which the policy chooses.
        agent: Options of ``SmolVLAAgent`` that are the same in all conditions.
    """

    policy: str = "bundled"
    device: str = "auto"
    dtype: str = "auto"
    compile_mode: str | None = None
    camera_map: dict[str, str | None] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.policy, self.device, self.dtype, self.compile_mode, repr((self.env, self.agent))))


@dataclass(frozen=True)
class Outcome:
    """One episode.

    Attributes:
        seed: Seed of the env and of the agent.
        instruction: What the agent was told.
        success: Whether the task was solved.
        steps: Control steps taken.
        statistics: What became of the chunks.
        failure: Why it was no success, in a few words; None where it was one.
    """

    seed: int
    instruction: str
    success: bool
    steps: int
    statistics: AgentStatistics
    failure: str | None = None


def evaluate(
    options: EvaluationOptions,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    *,
    workers: int = 1,
    ray: str | None = None,
    progress: Callable[[Condition, Outcome], None] = lambda condition, outcome: None,
    done: Mapping[Condition, Sequence[Outcome]] | None = None,
) -> dict[Condition, list[Outcome]]:
    """Runs every seed under every condition.

    An episode depends on its seed and its condition alone, so the result does not depend on the number of workers.

    Args:
        options: What is evaluated.
        conditions: Under what.
        seeds: Of the episodes.
        workers: Processes; 1 stays in this one.
        ray: Address of a Ray cluster that is to do it, or ``"local"`` for one of so many workers on this machine.
        progress: Called with each episode once it is over, here, in no particular order.
        done: Episodes that an earlier call has run; they are not run again.

    Returns:
        For each condition its episodes, in the order of the seeds.

    Raises:
        SmolVLAGymError: A policy cannot be loaded, there is no such cluster, or a process was killed.
    """
    known = {c: {o.seed: o for o in (done or {}).get(c, ()) if o.seed in seeds} for c in conditions}
    results = {condition: list(episodes.values()) for condition, episodes in known.items()}
    # One episode a job: a program that is stopped loses those alone that are running.
    jobs = [(options, c, [seed]) for c in conditions for seed in seeds if seed not in known[c]]

    def take(outcomes: list[tuple[Condition, Outcome]]) -> None:
        for condition, outcome in outcomes:
            results[condition].append(outcome)
            progress(condition, outcome)

    if not jobs:
        pass
    elif ray is not None:
        from smolvla_gym.evaluation.cluster import run_on_cluster

        run_on_cluster(ray, workers, jobs, take)
    elif workers == 1:
        for job in jobs:
            take(run_job(job))
    else:
        with process_pool(workers, prepare_worker) as pool:
            for future in as_completed([pool.submit(run_job, job) for job in jobs]):
                take(future.result())
    for episodes in results.values():
        episodes.sort(key=lambda outcome: seeds.index(outcome.seed))
    return results


def prepare_worker() -> None:
    """Prepares a process that runs episodes beside others."""
    os.environ["TQDM_DISABLE"] = "1"


@cache
def _load(policy: str, device: str, dtype: str) -> Any:
    """Loads a checkpoint, once a process."""
    import sys

    from smolvla_gym.agent.checkpoint.load import load_checkpoint

    with contextlib.redirect_stdout(sys.stderr):
        return load_checkpoint(policy, device=device, dtype=dtype)


@cache
def _policy(options: EvaluationOptions, num_steps: int | None) -> Any:
    """Returns a policy that computes so many flow steps; all share their checkpoint."""
    from smolvla_gym.agent.policies.local import LocalPolicy

    checkpoint = _load(options.policy, options.device, options.dtype)
    return LocalPolicy(
        checkpoint,
        num_steps=num_steps,
        camera_map=options.camera_map,
        name=options.policy,
        compile_mode=options.compile_mode,
    )


@cache
def _env(options: EvaluationOptions, task: str, render_mode: str | None = None) -> Any:
    """Makes the env that a policy looks at, once a process."""
    import gymnasium as gym

    from smolvla_gym import SIM_ID
    from smolvla_gym.agent.cameras import required_env_cameras
    from smolvla_gym.agent.images import env_image_size
    from smolvla_gym.sim.scene import CAMERAS

    policy = _policy(options, None)
    cameras = required_env_cameras(policy.card, CAMERAS)
    size = env_image_size(next(iter(policy.card.cameras.values())))
    # It stays for the process's life; its OpenGL contexts have to be freed before MuJoCo ends OpenGL, which it
    # registers with the first picture: what is registered later runs earlier.
    made: dict[str, Any] = {"task": task, "cameras": cameras, "image_size": size, "render_mode": render_mode}
    env = gym.make(SIM_ID, **made, **options.env)
    env.reset(seed=0)
    atexit.register(env.close)
    return env


def _agent(options: EvaluationOptions, condition: Condition, env: Any) -> Any:
    from smolvla_gym.agent.smolvla_agent import SmolVLAAgent

    policy = _policy(options, condition.num_steps)
    agent = SmolVLAAgent(policy, mode=condition.mode, latency_ms=condition.latency_ms, **options.agent)
    agent.attach(env)
    return agent


def run_job(job: tuple[EvaluationOptions, Condition, list[int]]) -> list[tuple[Condition, Outcome]]:
    """Runs some seeds under a condition."""
    options, condition, seeds = job
    with threads(1):  # there may be other workers
        env = _env(options, condition.task)
        agent = _agent(options, condition, env)
        return [(condition, _run_episode(env, agent, condition, seed)) for seed in seeds]


def reset(env: Any, condition: Condition, seed: int) -> tuple[Any, dict[str, Any]]:
    """Begins an episode of a condition.

    Args:
        env: A ``PAROL6Sim-v0`` with the condition's task.
        condition: Its words matter.
        seed: Seed of the scene, which is the same whatever the words.

    Returns:
        What ``env.reset`` does.
    """
    observation, info = env.reset(seed=seed)
    if condition.words == "given":
        return observation, info
    stage = env.unwrapped.backend.stage
    if condition.words == "swapped":
        colors = stage.layout.colors
        return tuple(env.reset(seed=seed, options={"target": colors[(stage.layout.target + 1) % len(colors)]}))
    phrasings = stage.task.unseen_phrasings
    return tuple(env.reset(seed=seed, options={"phrasing": phrasings[seed % len(phrasings)]}))


def _run_episode(
    env: Any,
    agent: Any,
    condition: Condition,
    seed: int,
    video: EpisodeVideo | None = None,
    observers: Sequence[EpisodeObserver] = (),
) -> Outcome:
    observation, info = reset(env, condition, seed)
    agent.reset(info["instruction"], seed=seed)
    watch = Watch(observers, env, agent, seed, str(info["instruction"]))
    watch.note(observation, info, None)
    steps, done, success = 0, False, False
    while not done:
        action = agent.act(observation)
        observation, _, terminated, truncated, info = env.step(action)
        watch.note(observation, info, action)
        steps += 1
        success = success or bool(info["is_success"])
        done = terminated or truncated
        if video is not None:
            video.add(env, observation, (str(info["instruction"]), f"seed {seed}    step {steps}"), success)
    watch.end(success)
    failure = None if success else env.unwrapped.backend.stage.failure()
    return Outcome(seed, str(info["instruction"]), success, steps, agent.statistics, failure)


def film(
    options: EvaluationOptions,
    condition: Condition,
    seed: int,
    path: Path,
    observers: Sequence[EpisodeObserver] = (),
) -> None:
    """Runs an episode as :func:`evaluate` does, and films it.

    Args:
        options: What is evaluated.
        condition: Under what.
        seed: Of the episode.
        path: Where to, ending in ``.mp4``.
        observers: Who else watches, see :mod:`smolvla_gym.integrations`. They stay open.

    Raises:
        RecordingError: The file could not be written.
    """
    with threads(1):  # there may be other workers
        env = _env(options, condition.task, "rgb_array")
        agent = _agent(options, condition, env)
        _film(env, agent, condition, seed, path, observers)


def _film(
    env: Any, agent: Any, condition: Condition, seed: int, path: Path, observers: Sequence[EpisodeObserver]
) -> None:
    from smolvla_gym.episodes.video import EpisodeVideo

    with EpisodeVideo(path, env.metadata["render_fps"], realtime=False) as video:
        _run_episode(env, agent, condition, seed, video, observers)


def summarise(condition: Condition, outcomes: Sequence[Outcome], control_hz: float) -> dict[str, Any]:
    """Returns the figures of a condition.

    ``success_rate`` with its 95 % interval ``success_low`` .. ``success_high``; of the episodes that succeeded the
    median ``time_to_success_s``; per episode the means ``waited_steps`` (before the first chunk), ``stalled_steps``
    (later, with an empty queue) and ``chunks``; and over all episodes the 99th percentile and the largest of the
    changes of a joint from one command to the next, at the borders of chunks and inside them; ``failures`` counts
    the episodes that failed by what they looked like at the end.
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
    failures = Counter(outcome.failure for outcome in outcomes if outcome.failure is not None)
    return {
        **asdict(condition),
        "episodes": len(outcomes),
        "successes": len(successes),
        **rounded,
        "failures": dict(failures.most_common()),
    }


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
