"""Runner of episodes: the one loop of agent and env, for rollouts, evaluations, recordings and demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.protocol import Action, Agent, Demonstrator, EpisodeOver, attach
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord

_NO_PLAN: Final = np.zeros((0, 7), np.float32)


def run_episode(
    env: gym.Env[Any, Any],
    agent: Agent,
    callbacks: Sequence[Callback] = (),
    *,
    seed: int,
    options: dict[str, Any] | None = None,
    until_agent_ends: bool = False,
) -> EpisodeRecord:
    """Run one episode.

    Whatever cuts the episode short, Ctrl-C included, is raised again after every callback that had begun was ended.

    Args:
        env: The env. It stays open.
        agent: Agent that acts; it is attached to the env and reset.
        callbacks: Callbacks that follow the episode. They stay open.
        seed: Seed of the env and of the agent.
        options: Options of ``env.reset``.
        until_agent_ends: Whether to go on after the env has terminated or truncated the episode, until the agent
            raises :class:`~smolvla_gym.agent.protocol.EpisodeOver`. A fault ends it in any case.

    Returns:
        The record of the episode.

    Example:
        >>> import gymnasium, smolvla_gym
        >>> from smolvla_gym.agent.scripted import ExpertAgent
        >>> env = gymnasium.make("PAROL6Sim-v0", task="lift")  # doctest: +SKIP
        >>> run_episode(env, ExpertAgent(), seed=0).success  # doctest: +SKIP
        True
    """
    attach(agent, env)
    observation, info = env.reset(seed=seed, options=options)
    record = EpisodeRecord(seed=seed, task=_task_name(env), instruction=str(info["instruction"]))
    begun: list[Callback] = []
    try:
        for callback in callbacks:
            callback.begin(env, record)
            begun.append(callback)
        agent.reset(record.instruction, seed=seed)
        record.end = _run_steps(env, agent, callbacks, record, observation, info, until_agent_ends)
        if isinstance(agent, Demonstrator) and agent.verdict is not None:
            record.success = agent.verdict
        if record.success:
            record.failure = None
        elif record.failure is None:
            record.failure = failure_mode(env)
    except BaseException:
        record.end = "interrupted"
        raise
    finally:
        _end(begun, record)
    return record


def failure_mode(env: gym.Env[Any, Any]) -> str | None:
    """Return the failure mode of an episode without success; None where the env cannot detect it, as on a real arm."""
    stage = getattr(getattr(env.unwrapped, "backend", None), "stage", None)
    return None if stage is None else str(stage.failure())


def _run_steps(
    env: gym.Env[Any, Any],
    agent: Agent,
    callbacks: Sequence[Callback],
    record: EpisodeRecord,
    observation: dict[str, Any],
    info: dict[str, Any],
    until_agent_ends: bool,
) -> str:
    """Run the control steps and return why they ended."""
    period, time = 1.0 / float(env.metadata["render_fps"]), 0.0

    def notify(action: Action | None, label: Action | None, reward: float) -> None:
        if not callbacks:  # an agent's plan is copied for them alone
            return
        plan = getattr(agent, "plan", None)
        step = Step(time, observation, action, label, reward, info, _NO_PLAN if plan is None else plan)
        for callback in callbacks:
            callback.step(record, step)

    notify(None, None, 0.0)
    while record.end is None:
        try:
            action = agent.act(observation)
        except EpisodeOver:
            return "agent"
        label = agent.label if isinstance(agent, Demonstrator) else action
        observation, reward, terminated, truncated, info = env.step(action)
        time += float((info.get("timing") or {}).get("step", period))
        record.steps += 1
        record.return_ += float(reward)
        record.success = record.success or bool(info.get("is_success", False))
        for event in info.get("safety", ()):
            record.safety[event["rule"]] = record.safety.get(event["rule"], 0) + 1
        if info.get("fault") is not None:
            record.fault, record.end = str(info["fault"]), "fault"
        elif (terminated or truncated) and not until_agent_ends:
            record.end = "terminated" if terminated else "truncated"
        if record.end is not None and not record.success:
            record.failure = failure_mode(env)  # the last frame of a video shows it
        notify(action, label, float(reward))
    return record.end


def _end(callbacks: Sequence[Callback], record: EpisodeRecord) -> None:
    """End callbacks in their order, all of them even where one raises."""
    if callbacks:
        try:
            callbacks[0].end(record)
        finally:
            _end(callbacks[1:], record)


def _task_name(env: gym.Env[Any, Any]) -> str:
    task = getattr(env.unwrapped, "task", "")
    return str(getattr(task, "name", task))
