"""Gymnasium environments of the PAROL6 arm, simulated and real, and a SmolVLA agent that drives either."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import gymnasium as gym

try:
    __version__ = version("smolvla-gym")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

SIM_ID = "PAROL6Sim-v0"

if SIM_ID not in gym.registry:
    # 15 s at the default 30 Hz: twice what the slowest expert needs.
    gym.register(id=SIM_ID, entry_point="smolvla_gym.envs.sim:make_sim_env", max_episode_steps=450)

__all__ = ["SIM_ID", "__version__"]
