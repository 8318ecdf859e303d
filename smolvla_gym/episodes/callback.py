"""Callbacks of an episode: video, telemetry, datasets, counts and progress follow episodes through one interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.episodes.record import EpisodeRecord


@dataclass(frozen=True)
class Step:
    """One control step; the first one of an episode is what ``env.reset`` returned.

    Attributes:
        time: Time since the beginning of the episode in s, on the env's own clock.
        observation: Observation at the end of the step.
        action: Action executed, shape (7,); None in the first step.
        label: Action to record for the observation before this step, shape (7,); None: it is not recorded.
        reward: Reward of the step.
        info: The env's info at the end of the step.
        plan: Actions that are planned next, shape (n, 7); empty for an agent without a plan.
    """

    time: float
    observation: dict[str, Any]
    action: NDArray[np.float32] | None
    label: NDArray[np.float32] | None
    reward: float
    info: dict[str, Any]
    plan: NDArray[np.float32]


class Callback:
    """Follows episodes; a subclass overrides what it needs.

    The callbacks of an episode are called in their order. An exception in one of them ends the episode, while an arm
    may be moving: raise only what has to stop it. In real time a callback that takes longer than a few ms belongs into
    :class:`~smolvla_gym.episodes.background.Background`.
    """

    def begin(self, env: gym.Env[Any, Any], record: EpisodeRecord) -> None:
        """Begin an episode: the env has been reset, the agent has not. The first step follows.

        Args:
            env: The env. A callback must neither step nor reset it.
            record: Record of the episode, which the runner updates before each call of :meth:`step`.
        """

    def step(self, record: EpisodeRecord, step: Step) -> None:
        """Take a control step. In the last one of an episode that the env ended ``record.end`` is set."""

    def end(self, record: EpisodeRecord) -> None:
        """End an episode that has begun, also after an exception: ``record.end`` is then ``"interrupted"``."""

    def close(self) -> None:
        """Finish all episodes; a second call does nothing.

        Raises:
            RecordingError: A file could not be written.
        """


@contextlib.contextmanager
def closing(callbacks: Sequence[Callback]) -> Iterator[Sequence[Callback]]:
    """Close callbacks at the end, also after an exception."""
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            stack.callback(callback.close)
        yield callbacks
