"""Recording: a source demonstrates, and what succeeds is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.sources import Source
from smolvla_gym.errors import FaultError
from smolvla_gym.telemetry.observer import EpisodeObserver, Watch

_LONGEST: Final = 600
"""Frames for which there has to be room on the disk, where the env has no limit of its own."""


@dataclass(frozen=True)
class Attempt:
    """What became of an episode.

    Attributes:
        seed: Its seed.
        instruction: What to do.
        frames: How many were recorded.
        kept: Whether it is in the dataset.
    """

    seed: int
    instruction: str
    frames: int
    kept: bool


def record(
    env: gym.Env[Any, Any],
    source: Source,
    dataset: Dataset,
    seeds: Iterable[int],
    episodes: int,
    progress: Callable[[Attempt], None] = lambda attempt: None,
    observers: Sequence[EpisodeObserver] = (),
    longest: int | None = None,
) -> None:
    """Records until the dataset has so many episodes, or the seeds are used up.

    Each finished episode is on the disk before the next one begins; those that fail are counted and left out.

    Args:
        env: Where.
        source: Who demonstrates.
        dataset: Where to.
        seeds: Of the episodes that are tried.
        episodes: How many the dataset is to have.
        progress: Called after each attempt.
        observers: Who else watches, see :mod:`smolvla_gym.telemetry`. They stay open.
        longest: Frames for which there has to be room on the disk; None: those of the env's longest episode.

    Raises:
        FaultError: The arm stopped; the episode is lost, those before are kept.
        DatasetError: The disk is full.
    """
    if longest is None:
        longest = env.spec.max_episode_steps if env.spec and env.spec.max_episode_steps else _LONGEST
    dataset.check_disk(longest)
    for seed in seeds:
        if len(dataset) >= episodes:
            return
        episode, success = _demonstrate(env, source, dataset, seed, observers)
        if success:
            dataset.add(episode)
            dataset.check_disk(longest)
        else:
            dataset.leave_out(seed)
        progress(Attempt(seed, episode.instruction, len(episode), success))


def _demonstrate(
    env: gym.Env[Any, Any], source: Source, dataset: Dataset, seed: int, observers: Sequence[EpisodeObserver]
) -> tuple[Episode, bool]:
    source.prepare()
    observation, info = env.reset(seed=seed)
    instruction = str(info["instruction"])
    episode = Episode.begin(instruction, seed, source.name, dataset.spec.cameras)
    watch = Watch(observers, env, source, seed, instruction)  # before an operator's arm waits for its first action
    first = source.begin(env, observation, instruction, seed)
    if first is None:
        watch.end(False)
        return episode, False
    observation = first
    watch.note(observation, info, None)
    success = False
    while not success and (chosen := source.act(observation)) is not None:
        label, command = chosen
        if label is not None:
            episode.note(observation, label)
        observation, _, terminated, truncated, info = env.step(command)
        watch.note(observation, info, command)
        if info["fault"]:
            raise FaultError(f"The arm stopped: {info['fault']}. The episode with seed {seed} was not kept.")
        success = bool(info["is_success"])
        if terminated or truncated:
            break
    good = success if source.verdict is None else source.verdict
    watch.end(good)
    return episode, good and len(episode) > 1
