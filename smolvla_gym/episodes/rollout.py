"""Rollouts: episodes of an agent in an env, with videos and a summary."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from smolvla_gym.agent.protocol import Agent
from smolvla_gym.episodes.cadence import watch_link
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.episodes.summary import SUMMARY_NAME, RolloutSummary, SummaryCallback
from smolvla_gym.episodes.video import EpisodeVideo
from smolvla_gym.errors import OptionError, RecordingError


def rollout(
    env: gym.Env[Any, Any],
    agent: Agent,
    *,
    episodes: int = 1,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    video: bool = True,
    policy: str | None = None,
    name: str = "rollout",
    summary: RolloutSummary | None = None,
    judge: Callable[[EpisodeRecord], bool] | None = None,
    progress: Callable[[EpisodeRecord], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> RolloutSummary:
    """Run an agent for some episodes.

    With ``out``, the folder receives ``summary.json`` and, with ``video``, ``rollout.mp4`` or, for several episodes,
    ``rollout_000.mp4`` and so on. Whatever cuts the rollout short, Ctrl-C included, is raised again after the video
    was finished and the summary of the episodes so far, if there are any, was saved with ``"interrupted": true``.

    The video shows ``env.render()`` with the wrist's view beside it; in real time, where rendering would make steps
    late, it is made of the observed images after the episode.

    Args:
        env: The env, ``render_mode="rgb_array"`` for videos. It stays open.
        agent: Agent that drives the arm; it is attached to the env.
        episodes: How many, each until the env ends it.
        seed: Seed of the first episode; the following ones count up.
        out: Output folder, made if absent; None writes no files.
        video: Whether to record videos, given ``out``.
        policy: Name of the agent in the summary; None: its class.
        name: Beginning of the names of the videos.
        summary: That of earlier episodes of this agent, in another env perhaps, which this one goes on with; its
            ``link`` becomes that of this env. None: a new one.
        judge: Decides after each episode whether it is a success, as an operator does beside a real arm, whose env
            cannot detect success. None: the env decides.
        progress: Called with the record of the running episode after each step and at its end (``end`` is set then).
        callbacks: Further callbacks, see :mod:`smolvla_gym.integrations`. They stay open.

    Returns:
        The summary.

    Raises:
        OptionError: ``episodes`` is below one, or the env cannot be rendered for a video.
        RecordingError: A file could not be written.

    Example:
        >>> import gymnasium, smolvla_gym
        >>> from smolvla_gym.agent.scripted import ExpertAgent
        >>> env = gymnasium.make("PAROL6Sim-v0", task="lift")  # doctest: +SKIP
        >>> rollout(env, ExpertAgent(), episodes=10).success_rate  # doctest: +SKIP
        1.0
    """
    folder = None if out is None else Path(out)
    if episodes < 1:
        raise OptionError("episodes", episodes, "at least one")
    if folder is not None and video and env.render_mode != "rgb_array":
        raise OptionError("video", video, f"the env has render_mode={env.render_mode!r}; make it with 'rgb_array'")
    env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    if summary is None:
        summary = RolloutSummary(env_id, policy or type(agent).__name__, float(env.metadata["render_fps"]))
    link = watch_link(env)
    digits = max(3, len(str(episodes - 1)))
    try:
        for index in range(episodes):
            following: list[Callback] = [SummaryCallback(summary, agent)]
            if folder is not None and video:
                number = "" if episodes == 1 else f"_{index:0{digits}d}"
                following.append(EpisodeVideo(folder / f"{name}{number}.mp4", agent))
            # The video is finished before the operator is asked, and the others see the operator's verdict.
            following += [] if judge is None else [_Verdict(judge)]
            following += callbacks
            following += [] if progress is None else [_Progress(progress)]
            run_episode(env, agent, following, seed=seed + index)
            summary.link = link.report() if link is not None else None
    except BaseException as error:
        summary.interrupted = True
        summary.link = link.report() if link is not None else None
        if folder is not None and summary.episodes:
            try:
                summary.save(folder / SUMMARY_NAME)
            except RecordingError as failure:
                error.add_note(str(failure))
        raise
    if folder is not None:
        summary.save(folder / SUMMARY_NAME)
    return summary


class _Verdict(Callback):
    """Callback that lets an operator decide whether an episode is a success."""

    def __init__(self, judge: Callable[[EpisodeRecord], bool]) -> None:
        self._judge = judge

    def end(self, record: EpisodeRecord) -> None:
        if record.end != "interrupted":
            record.success = self._judge(record)
            record.failure = None if record.success else record.failure


class _Progress(Callback):
    """Callback that reports the record of the running episode."""

    def __init__(self, progress: Callable[[EpisodeRecord], None]) -> None:
        self._progress = progress

    def step(self, record: EpisodeRecord, step: Step) -> None:
        if step.action is not None and record.end is None:
            self._progress(record)

    def end(self, record: EpisodeRecord) -> None:
        if record.end != "interrupted":
            self._progress(record)
