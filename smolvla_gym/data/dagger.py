"""DAgger demonstrator: a policy drives for a while, then the expert takes over."""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
import numpy as np

from smolvla_gym.agent.protocol import Action, Agent, Demonstrator, Observation, attach
from smolvla_gym.agent.scripted import ExpertAgent

_POLICY_S: Final = (1 / 3, 3.0)
"""Range of the time in s that the policy drives."""


class DaggerAgent(Demonstrator):
    """Lets a policy drive for a random time, then the expert, which shows how to go on from there.

    The policy's steps are not recorded. Labels of the expert for them would contradict each other within a chunk: the
    labels do not lead to the states that the policy reaches.
    """

    def __init__(self, policy: Agent, name: str) -> None:
        """Take a policy.

        Args:
            policy: Agent that drives at first.
            name: Its name.
        """
        self.name: str = f"dagger, {name}"
        self._expert, self._policy = ExpertAgent(), policy
        self._policy_steps, self._control_hz = 0, 0.0

    def attach(self, env: gym.Env[Any, Any]) -> None:
        """Take the env.

        Args:
            env: A simulated env or a twin.

        Raises:
            OptionError: The env has no expert.
            PolicyMismatchError: The policy does not fit the env.
        """
        self._expert.attach(env)
        self._control_hz = env.unwrapped.control_hz  # type: ignore[attr-defined]
        attach(self._policy, env)

    def reset(self, instruction: str, seed: int | None = None) -> None:
        """Begin an episode and draw the time that the policy drives."""
        self._policy.reset(instruction, seed)
        self._expert.reset(instruction, seed)
        rng = np.random.default_rng(None if seed is None else [seed, 3])
        shortest, longest = (round(seconds * self._control_hz) for seconds in _POLICY_S)
        self._policy_steps = int(rng.integers(shortest, longest))

    def act(self, observation: Observation) -> Action:
        """Return the policy's action, which is not recorded, and later the expert's, shape (7,)."""
        if self._policy_steps > 0:
            self._policy_steps -= 1
            self.label = None
            return self._policy.act(observation)
        self.label = action = self._expert.act(observation)
        return action
