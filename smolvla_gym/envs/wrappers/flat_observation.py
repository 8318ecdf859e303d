"""Flat observations, for learning libraries that take no nested dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from smolvla_gym.errors import OptionError


class FlatObservation(gym.ObservationWrapper[dict[str, Any], Any, dict[str, Any]], gym.utils.RecordConstructorArgs):
    """Observations are one dictionary of arrays, as Stable-Baselines3's ``MultiInputPolicy`` needs.

    ``observation["pixels"]["wrist"]`` becomes ``observation["pixels_wrist"]``, and so on: ``agent_pos``,
    ``pixels_<camera>``, ``depth_<camera>`` and ``privileged_<name>``. Types, units and shapes stay the same, except
    that tables of shape (n, k) become vectors of shape (n k,), row after row.

    Example:
        >>> import gymnasium, smolvla_gym
        >>> from smolvla_gym.envs import FlatObservation
        >>> env = FlatObservation(gymnasium.make("PAROL6Sim-v0", cameras=()))
        >>> vector = gymnasium.make_vec("PAROL6Sim-v0", num_envs=2, wrappers=[FlatObservation])  # doctest: +SKIP
    """

    def __init__(self, env: gym.Env[dict[str, Any], Any]) -> None:
        """Wrap an environment.

        Args:
            env: An environment with observations in dictionaries.

        Raises:
            OptionError: Its observations are not a dictionary.
        """
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        if not isinstance(env.observation_space, spaces.Dict):
            raise OptionError("env", env.observation_space, "an env with a dictionary of observations")
        leaves = _leaves(env.observation_space.spaces)
        self.observation_space = spaces.Dict({name: _flat_space(space) for name, space in leaves})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return an observation without nested dictionaries."""
        return {name: value.reshape(-1) if value.ndim == 2 else value for name, value in _leaves(observation)}


def _flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and len(space.shape) == 2:
        return spaces.flatten_space(space)
    return space


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, spaces.Dict):
            value = value.spaces
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}_")
        else:
            yield prefix + key, value
