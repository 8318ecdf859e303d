"""Evaluation: a policy in the simulation under several conditions, each with the same seeds, on several processes."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolvla_gym.episodes.callback import Callback
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.evaluation.conditions import Condition, EvaluationOptions, Outcome
from smolvla_gym.utils.worker_pool import process_pool, threads

if TYPE_CHECKING:
    import gymnasium as gym

    from smolvla_gym.agent.smolvla_agent import SmolVLAAgent

Job = tuple[EvaluationOptions, Condition, int]
"""Options, condition and seed of an episode."""


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
    """Run every seed under every condition.

    An episode depends on its seed and its condition alone, so the result does not depend on the number of workers.

    Args:
        options: Options that all conditions share.
        conditions: The conditions.
        seeds: Evaluation seeds.
        workers: Processes; 1 stays in this one.
        ray: Address of a Ray cluster that runs the episodes, or ``"local"`` for one of ``workers`` on this machine.
        progress: Called in this process with each outcome as it arrives, in no particular order.
        done: Outcomes of an earlier call; their episodes are not run again.

    Returns:
        For each condition its outcomes, in the order of the seeds.

    Raises:
        SmolVLAGymError: A policy cannot be loaded, there is no such cluster, or a process was killed.
    """
    known = {c: {o.seed: o for o in (done or {}).get(c, ()) if o.seed in seeds} for c in conditions}
    results = {condition: list(episodes.values()) for condition, episodes in known.items()}
    # One episode a job: a program that is stopped loses only those that are running.
    jobs = [(options, c, seed) for c in conditions for seed in seeds if seed not in known[c]]

    def take(done: tuple[Condition, Outcome]) -> None:
        condition, outcome = done
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
    """Prepare a worker process."""
    os.environ["TQDM_DISABLE"] = "1"


@cache
def _load(policy: str, device: str, dtype: str) -> Any:
    """Load a checkpoint, once a process."""
    import sys

    from smolvla_gym.agent.checkpoint.load import load_checkpoint

    with contextlib.redirect_stdout(sys.stderr):
        return load_checkpoint(policy, device=device, dtype=dtype)


def _one_thread(policy: str) -> contextlib.AbstractContextManager[None]:
    """Have torch compute with one thread; an exported policy does without torch."""
    from smolvla_gym.agent.policies.load import find_exported

    return threads(1) if find_exported(policy) is None else contextlib.nullcontext()


@cache
def _policy(options: EvaluationOptions, num_steps: int | None) -> Any:
    """Return the policy with a number of flow steps; all of them share the checkpoint."""
    from smolvla_gym.agent.policies.load import find_exported, load_policy
    from smolvla_gym.agent.policies.local import LocalPolicy

    if find_exported(options.policy) is not None:
        return load_policy(
            options.policy, device=options.device, dtype=options.dtype, num_steps=num_steps,
            camera_map=options.camera_map, compile_mode=options.compile_mode,
        )  # fmt: skip
    checkpoint = _load(options.policy, options.device, options.dtype)
    return LocalPolicy(
        checkpoint,
        num_steps=num_steps,
        camera_map=options.camera_map,
        name=options.policy,
        compile_mode=options.compile_mode,
    )


@cache
def _env(
    options: EvaluationOptions,
    task: str,
    randomization: int | None,
    cameras: tuple[str, ...] | None,
    render_mode: str | None = None,
) -> Any:
    """Make the env of a condition, once a process."""
    import gymnasium as gym

    from smolvla_gym import SIM_ID
    from smolvla_gym.agent.cameras import required_env_cameras
    from smolvla_gym.agent.images import env_image_size
    from smolvla_gym.sim.scene import CAMERAS

    policy = _policy(options, None)
    if cameras is None:
        cameras = required_env_cameras(policy.card, CAMERAS)
    size = env_image_size(next(iter(policy.card.cameras.values())))
    # The env lives as long as the process. Its OpenGL contexts have to be freed before MuJoCo ends OpenGL, which it
    # registers with the first image: what is registered later runs earlier.
    made: dict[str, Any] = {"task": task, "cameras": cameras, "image_size": size, "render_mode": render_mode}
    level = {} if randomization is None else {"randomization": randomization}
    env = gym.make(SIM_ID, **made, **options.env | level)
    env.reset(seed=0)
    atexit.register(env.close)
    return env


def _agent(options: EvaluationOptions, condition: Condition) -> SmolVLAAgent:
    from smolvla_gym.agent.smolvla_agent import SmolVLAAgent

    policy = _policy(options, condition.num_steps)
    return SmolVLAAgent(policy, mode=condition.mode, latency_ms=condition.latency_ms, **options.agent)


def run_job(job: Job) -> tuple[Condition, Outcome]:
    """Run a seed under a condition."""
    options, condition, seed = job
    with _one_thread(options.policy):  # there may be other workers
        env = _env(options, condition.task, condition.randomization, condition.cameras)
        return condition, _run(env, _agent(options, condition), condition, seed)


def record_video(
    options: EvaluationOptions,
    condition: Condition,
    seed: int,
    path: Path,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run an episode as :func:`evaluate` does, and record a video of it.

    Args:
        options: Options of the evaluation.
        condition: The condition.
        seed: Evaluation seed of the episode.
        path: Path of the video, ending in ``.mp4``.
        callbacks: Further callbacks, see :mod:`smolvla_gym.integrations`. They stay open.

    Raises:
        RecordingError: The file could not be written.
    """
    from smolvla_gym.episodes.video import EpisodeVideo

    with _one_thread(options.policy):  # as in an evaluation: the number of threads may change the last bits of a chunk
        env = _env(options, condition.task, condition.randomization, condition.cameras, "rgb_array")
        agent = _agent(options, condition)
        _run(env, agent, condition, seed, [EpisodeVideo(path, agent), *callbacks])


def _run(
    env: gym.Env[Any, Any], agent: SmolVLAAgent, condition: Condition, seed: int, callbacks: Sequence[Callback] = ()
) -> Outcome:
    record = run_episode(env, agent, callbacks, seed=seed, options=_reset_options(env, condition, seed))
    return Outcome(seed, record.instruction, record.success, record.steps, agent.statistics, record.failure)


def _reset_options(env: gym.Env[Any, Any], condition: Condition, seed: int) -> dict[str, Any] | None:
    """Return the options of ``env.reset`` for the condition's instruction; the scene depends on the seed alone."""
    bare: Any = env.unwrapped
    stage = bare.backend.stage
    if condition.instruction == "swapped":
        env.reset(seed=seed)  # lays the scene out, whose objects are to be known
        return {"target": stage.task.another(stage.layout)}
    if condition.instruction == "unseen":
        templates = stage.task.unseen_instruction_templates
        return {"instruction_template": templates[seed % len(templates)]}
    return None
