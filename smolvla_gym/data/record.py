"""Recording of demonstrations: the episodes that succeed are added to a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gymnasium as gym

from smolvla_gym.agent.protocol import Demonstrator
from smolvla_gym.data.dataset import Dataset, Episode
from smolvla_gym.envs.time_limit import steps_within
from smolvla_gym.episodes.callback import Callback, Step
from smolvla_gym.episodes.record import EpisodeRecord
from smolvla_gym.episodes.runner import run_episode
from smolvla_gym.errors import DatasetError, FaultError

_LONGEST_S: Final = 20.0
"""Time in s of an episode for which there has to be room on the disk, where the env has no limit of its own."""

_PATIENCE: Final = 50
"""Failures in a row after which recording ends; an expert that succeeds one time in ten hardly has so many."""

POLICY_SUCCEEDED: Final = "the policy succeeded alone"
"""Reason of an episode that ended before the demonstrator took over from a policy."""


@dataclass(frozen=True)
class Attempt:
    """Result of one demonstration.

    Attributes:
        seed: Seed of the episode.
        instruction: Instruction of the episode.
        frames: Number of frames that were recorded.
        kept: Whether the episode is in the dataset.
        reason: Why it is not, in a few words; None: it is.
    """

    seed: int
    instruction: str
    frames: int
    kept: bool
    reason: str | None = None


class DatasetWriter(Callback):
    """Collects the recorded steps of each episode, and adds it to a dataset if it is a success.

    An episode that was interrupted or ended by a fault is neither added nor counted.

    Attributes:
        attempt: Result of the latest episode; None before the end of the first.
    """

    def __init__(self, dataset: Dataset, demonstrator: Demonstrator) -> None:
        """Take the dataset.

        Args:
            dataset: Dataset to add to.
            demonstrator: Demonstrator of the episodes.
        """
        self.attempt: Attempt | None = None
        self._dataset, self._demonstrator = dataset, demonstrator
        self._episode = Episode.begin("", 0, "", ())
        self._observation: dict[str, Any] = {}

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Begin an episode without frames."""
        cameras = self._dataset.spec.cameras
        self._episode = Episode.begin(record.instruction, record.seed, self._demonstrator.name, cameras)

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Note the label of a step beside the observation before it."""
        if step.label is not None:
            self._episode.note(self._observation, step.label)
        self._observation = step.observation

    def end(self, record: EpisodeRecord) -> None:
        """Add the episode, or count it among those that are left out.

        Raises:
            DatasetError: The disk is full, or another program records into the dataset.
        """
        if record.end in ("fault", "interrupted"):
            return
        reason = self._reason(record)
        if reason is None:
            self._dataset.add(self._episode)
        else:
            self._dataset.leave_out(record.seed, solved_alone=reason == POLICY_SUCCEEDED)
        self.attempt = Attempt(record.seed, record.instruction, len(self._episode), reason is None, reason)

    def _reason(self, record: EpisodeRecord) -> str | None:
        """Return why an episode is not kept, in a few words; None: it is."""
        if not len(self._episode):
            return POLICY_SUCCEEDED if record.success else "over before there was anything to record"
        if record.success:
            return None if len(self._episode) > 1 else "over after one step"
        if self._demonstrator.verdict is not None:
            return "discarded"
        return record.failure or "no success"


def record(
    env: gym.Env[Any, Any],
    demonstrator: Demonstrator,
    dataset: Dataset,
    seeds: Iterable[int],
    episodes: int,
    progress: Callable[[Attempt], None] = lambda attempt: None,
    *,
    callbacks: Sequence[Callback] = (),
    longest: int | None = None,
    patience: int | None = _PATIENCE,
) -> None:
    """Record until the dataset has a number of episodes, or the seeds are used up.

    Each finished episode is on the disk before the next one begins; those that fail are counted and left out.

    Args:
        env: The env. It stays open.
        demonstrator: Agent that demonstrates; it is attached to the env.
        dataset: Dataset to add to.
        seeds: Seeds of the episodes that are tried.
        episodes: Number of episodes that the dataset is to have.
        progress: Called after each attempt.
        callbacks: Further callbacks, see :mod:`smolvla_gym.integrations`. They stay open.
        longest: Frames for which there has to be room on the disk; None: those of the env's longest episode.
        patience: Number of failures in a row after which recording ends with an error; None: never.

    Raises:
        FaultError: The arm stopped; the episode is lost, those before are kept.
        DatasetError: The disk is full, another program records into the dataset, or nothing succeeds any more.
    """
    if longest is None:
        longest = env.spec.max_episode_steps if env.spec and env.spec.max_episode_steps else None
        longest = longest or steps_within(_LONGEST_S, env.metadata["render_fps"])
    dataset.check_disk(longest)
    demonstrator.attach(env)
    writer = DatasetWriter(dataset, demonstrator)
    failures: list[str] = []  # since the last success
    for seed in seeds:
        if len(dataset) >= episodes:
            return
        demonstrator.prepare()
        episode = run_episode(env, demonstrator, [*callbacks, writer], seed=seed)
        if episode.fault is not None:
            raise FaultError(f"The arm stopped: {episode.fault}. The episode with seed {seed} was not kept.")
        attempt = writer.attempt
        assert attempt is not None  # noqa: S101 - narrows a type
        if attempt.kept:
            dataset.check_disk(longest)
            failures.clear()
        elif attempt.reason is not None and attempt.reason != POLICY_SUCCEEDED:
            failures.append(attempt.reason)
        progress(attempt)
        if failures and len(failures) == patience:
            modes = ", ".join(f"{mode} {count}" for mode, count in Counter(failures).most_common())
            raise DatasetError(
                f"The last {patience} episodes have all failed ({modes}), up to seed {seed}. Everything recorded until "
                "now is complete. Take another demonstrator, less noise or an easier scene, or begin with another seed."
            )
