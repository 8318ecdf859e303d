"""Gymnasium environments of the PAROL6 arm, simulated and real, and a SmolVLA agent that drives either."""

from __future__ import annotations

from smolvla_gym.utils.startup import exit_at_once

exit_at_once()  # before the imports below, which take long enough for a Ctrl-C

# ruff: noqa: E402
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from smolvla_gym.envs.time_limit import ADDITIONAL_WRAPPERS, DEFAULT_STEPS

if TYPE_CHECKING:
    from smolvla_gym.agent import SmolVLAAgent
    from smolvla_gym.episodes.rollout import rollout

try:
    __version__ = version("smolvla-gym")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

SIM_ID = "PAROL6Sim-v0"
REAL_ID = "PAROL6Real-v0"

# Gymnasium's checker breaks in the first step where the first reset raised, as one with a refused start pose does, and
# that of an arm not yet homed.
if SIM_ID not in gym.registry:
    gym.register(
        id=SIM_ID,
        entry_point="smolvla_gym.envs.make_sim:make_sim_env",
        max_episode_steps=DEFAULT_STEPS,
        additional_wrappers=ADDITIONAL_WRAPPERS,
        disable_env_checker=True,
    )
if REAL_ID not in gym.registry:
    gym.register(
        id=REAL_ID,
        entry_point="smolvla_gym.envs.make_real:make_real_env",
        max_episode_steps=DEFAULT_STEPS,
        additional_wrappers=ADDITIONAL_WRAPPERS,
        disable_env_checker=True,
    )


def __getattr__(name: str) -> Any:
    # Videos and torch are loaded by whoever uses them, not by everybody who makes an env.
    if name == "rollout":
        from smolvla_gym.episodes.rollout import rollout

        return rollout
    if name == "SmolVLAAgent":
        from smolvla_gym.agent import SmolVLAAgent

        return SmolVLAAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["REAL_ID", "SIM_ID", "SmolVLAAgent", "__version__", "rollout"]
