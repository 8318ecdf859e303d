"""Time limit of an episode, in s at every control rate."""

from __future__ import annotations

from typing import Any, Final

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec
from gymnasium.wrappers import TimeLimit

MAX_EPISODE_S: Final = 15.0
"""Default time limit of an episode in s: twice what the experts need for the slowest task but one."""


class DefaultSteps(int):
    """Registered ``max_episode_steps``: a type of its own, to tell it from the same number given to ``gym.make``."""


DEFAULT_STEPS: Final = DefaultSteps(round(MAX_EPISODE_S * 30.0))
"""Steps of an episode at the default time limit and control rate."""

_FACTORY: Final = "smolvla_gym.envs.time_limit:limit_time"

ADDITIONAL_WRAPPERS: Final = (WrapperSpec(name="TimeLimit", entry_point=_FACTORY, kwargs={}),)
"""Argument of ``gym.register`` by which ``gym.make`` calls :func:`limit_time` last."""


def steps_within(seconds: float, control_hz: float) -> int:
    """Return the number of control steps in a time in s, at least one."""
    return max(1, round(seconds * control_hz))


def limit_time(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Replace the registered step limit by the env's option ``max_episode_s``.

    Args:
        env: Environment that ``gym.make`` has built. A ``max_episode_steps`` of the caller stays, also -1 for none.
    """
    if not isinstance(env, TimeLimit) or not isinstance(env._max_episode_steps, DefaultSteps):
        return env
    bare: Any = env.unwrapped
    if bare.max_episode_s is None:
        return env.env
    return TimeLimit(env.env, steps_within(bare.max_episode_s, bare.control_hz))
