"""Protocol of everything that drives the arm: policies, experts, random actions, replay, DAgger and teleoperation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Observation = dict[str, Any]
Action = NDArray[np.float32]


class EpisodeOver(Exception):  # noqa: N818 - no error
    """Raised by ``act`` to end the episode: a replay is at its end, or the operator has decided."""


class Agent(Protocol):
    """Anything that turns observations into actions, one a control step.

    An agent may also have ``attach(env)``, see :func:`attach`, and ``plan``, the actions that it is going to return
    next, shape (n, 7).
    """

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode; the env has been reset.

        Args:
            instruction: Instruction of the episode.
            seed: Seed of the agent's own randomness; ``None`` draws a fresh one.
        """

    def act(self, observation: Observation) -> Action:
        """Return the action for an observation of the env, shape (7,), float32.

        Raises:
            EpisodeOver: The agent ends the episode.
        """
        ...


def attach(agent: Agent, env: gym.Env[Any, Any]) -> None:
    """Give an agent that has the method ``attach`` the env that it is going to act in."""
    take = getattr(agent, "attach", None)
    if take is not None:
        take(env)


class Demonstrator(ABC):
    """Agent whose episodes are recorded.

    Attributes:
        name: Name of the source, which the dataset notes beside each episode.
        label: Action to record for the observation that ``act`` got last, shape (7,). It differs from the action that
            ``act`` returned where the arm is pushed off its way; None: this step is not recorded.
        verdict: Decision of the demonstrator whether the episode is a success; None: the task decides.
    """

    name: str = ""
    label: Action | None = None
    verdict: bool | None = None

    def attach(self, env: gym.Env[Any, Any]) -> None:  # noqa: B027 - a replay does not need it
        """Take the env that the demonstrator is going to act in.

        Raises:
            OptionError: The demonstrator cannot act in this env.
        """

    def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Prepare an episode; called before the env is reset, which moves a real arm."""

    @abstractmethod
    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode, see :meth:`Agent.reset`."""

    @abstractmethod
    def act(self, observation: Observation) -> Action:
        """Set ``label`` and return the action to execute, see :meth:`Agent.act`."""
