"""Agents without a network: the scripted expert and random actions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.protocol import Action, Demonstrator, Observation
from smolvla_gym.errors import OptionError, SmolVLAGymError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER


class RandomAgent:
    """Uniformly random actions: the baseline that a policy has to beat."""

    def __init__(self) -> None:
        """Create an agent that needs :meth:`attach` before it acts."""
        self._space: gym.Space[Any] | None = None

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Copy the env's action space, so that the env's own random state stays untouched."""
        self._space = copy.deepcopy(env.action_space)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Restart the sequence of actions."""
        self._attached().seed(seed)

    def act(self, observation: Observation) -> Action:
        """Return a uniform draw from the action space, shape (7,)."""
        return np.asarray(self._attached().sample(), dtype=np.float32)

    def _attached(self) -> gym.Space[Any]:
        if self._space is None:
            raise SmolVLAGymError("RandomAgent has no action space yet: call attach(env) after gym.make().")
        return self._space


class ExpertAgent(Demonstrator):
    """Scripted expert of the env's task. It reads the state of the simulation, not the observation.

    With noise the arm is pushed off its way while the label stays the expert's own, clean action: a policy sees how to
    come back.
    """

    def __init__(self, *, noise: float = 0.0) -> None:
        """Create an agent that needs :meth:`attach` before it acts.

        Args:
            noise: Standard deviation of what is added to the joints, in rad.

        Raises:
            OptionError: The noise is negative or not finite.
        """
        if not 0.0 <= noise < 0.5:
            raise OptionError("noise", noise, "a standard deviation in rad from 0 to 0.5")
        self.name: str = "expert" if noise == 0.0 else f"expert, noise {noise:g} rad"
        self._noise = noise
        self._rng = np.random.default_rng(0)
        self._expert_action: Callable[[], Action] | None = None

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Look the expert up.

        Args:
            env: A simulated env or a twin. Its wrappers must not change the actions: the expert's are those of the
                unwrapped env.

        Raises:
            OptionError: The env has no scripted expert.
        """
        expert = getattr(env.unwrapped, "expert_action", None)
        if expert is None:
            raise OptionError("env", env, "the expert needs an env with expert_action(), a simulated one")
        self._expert_action = expert

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Restart the noise. The expert itself has no state: its action depends on the simulation's alone."""
        self._rng = np.random.default_rng(None if seed is None else [seed, 2])

    def act(self, observation: Observation) -> Action:
        """Return the expert's action in the present state of the simulation, with the noise, shape (7,)."""
        if self._expert_action is None:
            raise SmolVLAGymError("ExpertAgent has no env yet: call attach(env) after gym.make().")
        action = np.asarray(self._expert_action(), dtype=np.float32)
        self.label: Action | None = action
        if self._noise:
            action = action.copy()
            action[:6] = np.clip(action[:6] + self._rng.normal(0.0, self._noise, 6), JOINT_LOWER, JOINT_UPPER)
        return action
