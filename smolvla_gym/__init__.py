"""Gymnasium environments of the PAROL6 arm, simulated and real, and a SmolVLA agent that drives either."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from smolvla_gym.agent import SmolVLAAgent
    from smolvla_gym.evaluation.rollout import rollout

try:
    __version__ = version("smolvla-gym")
except PackageNotFoundError:  # imported from a folder that was never installed
    __version__ = "0+unknown"

SIM_ID = "PAROL6Sim-v0"
REAL_ID = "PAROL6Real-v0"

for env_id, module in ((SIM_ID, "sim"), (REAL_ID, "real")):
    if env_id not in gym.registry:
        # 15 s at the default 30 Hz: more than twice what the experts need for the slowest task but one.
        gym.register(id=env_id, entry_point=f"smolvla_gym.envs.{module}:make_{module}_env", max_episode_steps=450)


def __getattr__(name: str) -> Any:
    # Videos and torch are loaded by whoever uses them, not by everybody who makes an env.
    if name == "rollout":
        from smolvla_gym.evaluation.rollout import rollout

        return rollout
    if name == "SmolVLAAgent":
        from smolvla_gym.agent import SmolVLAAgent

        return SmolVLAAgent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["REAL_ID", "SIM_ID", "SmolVLAAgent", "__version__", "rollout"]
