"""Recording: a source demonstrates, and what succeeds is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.data.sources import SolvedAlone, Source
from smolvla_gym.envs.time_limit import steps_within
from smolvla_gym.episodes.observer import EpisodeObserver, Watch
from smolvla_gym.errors import DatasetError, FaultError

_LONGEST_S: Final = 20.0
"""Time in s of an episode for which there has to be room on the disk, where the env has no limit of its own."""

_PATIENCE: Final = 50
"""Failures in a row after which it goes on in vain; an expert that succeeds one time in ten hardly has so many."""

SOLVED_ALONE: Final = "solved by the policy alone"


@dataclass(frozen=True)
class Attempt:
    """What became of an episode.

    Attributes:
        seed: Its seed.
        instruction: What to do.
        frames: How many were recorded.
        kept: Whether it is in the dataset.
        reason: Why it is not, in a few words; None: it is.
    """

    seed: int
    instruction: str
    frames: int
    kept: bool
    reason: str | None = None


def record(
    env: gym.Env[Any, Any],
    source: Source,
    dataset: Dataset,
    seeds: Iterable[int],
    episodes: int,
    progress: Callable[[Attempt], None] = lambda attempt: None,
    observers: Sequence[EpisodeObserver] = (),
    longest: int | None = None,
    patience: int | None = _PATIENCE,
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
        observers: Who else watches, see :mod:`smolvla_gym.integrations`. They stay open.
        longest: Frames for which there has to be room on the disk; None: those of the env's longest episode.
        patience: After how many failures in a row it gives up; None: never.

    Raises:
        FaultError: The arm stopped; the episode is lost, those before are kept.
        DatasetError: The disk is full, another program records into the dataset, or nothing succeeds any more.
    """
    if longest is None:
        longest = env.spec.max_episode_steps if env.spec and env.spec.max_episode_steps else None
        longest = longest or steps_within(_LONGEST_S, env.metadata["render_fps"])
    dataset.check_disk(longest)
    failures: list[str] = []  # since the last success
    for seed in seeds:
        if len(dataset) >= episodes:
            return
        episode, reason = _demonstrate(env, source, dataset, seed, observers)
        if reason is None:
            dataset.add(episode)
            dataset.check_disk(longest)
        else:
            dataset.leave_out(seed, solved_alone=reason == SOLVED_ALONE)
        progress(Attempt(seed, episode.instruction, len(episode), reason is None, reason))
        if reason is None:
            failures.clear()
        elif reason != SOLVED_ALONE:
            failures.append(reason)
        if failures and len(failures) == patience:
            kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(failures).most_common())
            raise DatasetError(
                f"The last {patience} episodes have all failed ({kinds}), up to seed {seed}. Everything recorded until "
                "now is complete. Take another source, less noise or an easier scene, or begin with another seed."
            )


def _demonstrate(
    env: gym.Env[Any, Any], source: Source, dataset: Dataset, seed: int, observers: Sequence[EpisodeObserver]
) -> tuple[Episode, str | None]:
    """Returns an episode, and why it is not to be kept; None: it is."""
    source.prepare()
    observation, info = env.reset(seed=seed)
    instruction = str(info["instruction"])
    episode = Episode.begin(instruction, seed, source.name, dataset.spec.cameras)
    watch = Watch(observers, env, source, seed, instruction)  # before an operator's arm waits for its first action
    try:
        first = source.begin(env, observation, instruction, seed)
    except SolvedAlone:
        watch.end(True)
        return episode, SOLVED_ALONE
    if first is None:
        watch.end(False)
        return episode, "over before there was anything to record"
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
    if good:
        return episode, None if len(episode) > 1 else "over after one step"
    if source.verdict is not None:
        return episode, "thrown away"
    bare: Any = env.unwrapped
    stage = getattr(bare.backend, "stage", None)  # a real arm has none: nobody judges there
    return episode, "not solved" if stage is None else stage.failure()
