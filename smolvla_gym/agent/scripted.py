"""What drives an arm: the protocol of all agents, and the two that need no network."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import OptionError

Observation = dict[str, Any]
Action = NDArray[np.float32]


class Agent(Protocol):
    """Anything that turns observations into actions, one a control step."""

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begins an episode.

        Args:
            instruction: What to do, in words.
            seed: Seed of the agent's own randomness; ``None`` draws a fresh one.
        """

    def act(self, observation: Observation) -> Action:
        """Returns the action for an observation of the env, shape (7,), float32."""
        ...


def attach(agent: Agent, env: gym.Env[Any, Any]) -> None:
    """Tells an agent that wants to know, such as ``SmolVLAAgent``, which env it is going to act in."""
    take = getattr(agent, "attach", None)
    if take is not None:
        take(env)


class RandomAgent:
    """Uniform actions: the floor that a policy has to beat."""

    def __init__(self, action_space: gym.Space[Any]) -> None:
        """Takes a copy of the space, so that the env's own random state stays untouched.

        Args:
            action_space: The env's action space.
        """
        self._space = copy.deepcopy(action_space)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Restarts the sequence of actions."""
        self._space.seed(seed)

    def act(self, observation: Observation) -> Action:
        """Returns a uniform draw from the action space, shape (7,)."""
        return np.asarray(self._space.sample(), dtype=np.float32)


class ExpertAgent:
    """The scripted expert of the env's task. It sees the whole simulation, not just the observation."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """Looks the expert up.

        Args:
            env: A simulated env. Its wrappers must not change the actions, since the expert speaks to the bare env.

        Raises:
            OptionError: The env has no scripted expert, such as the one of the real arm.
        """
        expert = getattr(env.unwrapped, "expert_action", None)
        if expert is None:
            raise OptionError("env", env, "the expert needs an env with expert_action(), a simulated one")
        self._expert_action = expert

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Does nothing: the expert's plan lives in the env and restarts with it."""

    def act(self, observation: Observation) -> Action:
        """Returns the expert's action for the present state of the simulation, shape (7,)."""
        return np.asarray(self._expert_action(), dtype=np.float32)
