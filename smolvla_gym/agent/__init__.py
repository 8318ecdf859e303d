"""The SmolVLA agent. Importing it is cheap: torch and lerobot are imported when a checkpoint is loaded.

Where to find what:

* ``smolvla_agent``: the agent's API; ``agent_options``: its keywords.
* ``action_queue``: select the action of a control step, drop expired actions, merge chunks (``aggregation``).
* ``chunk_scheduler``: decide when a chunk is requested (sync, async, rtc; ``mode_choice``: auto). ``inference_runner``:
  compute it in simulated or in real time (``inference_thread``). ``chunk_noise``, ``rtc_guidance``, ``clean_times``:
  continue the previous chunk.
* ``input_validation``: validate observations and envs; ``instructions``: validate the instruction; ``cameras``,
  ``images``: prepare the inputs.
* ``checkpoint.validation``: validate that a checkpoint can drive the arm; ``checkpoint.load``: load it.
* ``policies.local``: inference in this process, by ``sampler`` or by LeRobot's code. ``policies.process``: in a worker
  process. ``policies.remote``: policy server and client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolvla_gym.agent.action_queue import ActionQueue as ActionQueue
    from smolvla_gym.agent.aggregation import AGGREGATES as AGGREGATES
    from smolvla_gym.agent.checkpoint.hub import bundled_checkpoint as bundled_checkpoint
    from smolvla_gym.agent.checkpoint.load import load_checkpoint as load_checkpoint
    from smolvla_gym.agent.images import resize_area as resize_area
    from smolvla_gym.agent.policies.base import Chunk as Chunk
    from smolvla_gym.agent.policies.base import ChunkPolicy as ChunkPolicy
    from smolvla_gym.agent.policies.base import ChunkRequest as ChunkRequest
    from smolvla_gym.agent.policies.base import PolicyCard as PolicyCard
    from smolvla_gym.agent.policies.local import LocalPolicy as LocalPolicy
    from smolvla_gym.agent.policies.remote.client import RemotePolicy as RemotePolicy
    from smolvla_gym.agent.policies.remote.server import PolicyServer as PolicyServer
    from smolvla_gym.agent.smolvla_agent import SmolVLAAgent as SmolVLAAgent

_MODULES = {
    "AGGREGATES": "smolvla_gym.agent.aggregation",
    "ActionQueue": "smolvla_gym.agent.action_queue",
    "Chunk": "smolvla_gym.agent.policies.base",
    "ChunkPolicy": "smolvla_gym.agent.policies.base",
    "ChunkRequest": "smolvla_gym.agent.policies.base",
    "LocalPolicy": "smolvla_gym.agent.policies.local",
    "PolicyCard": "smolvla_gym.agent.policies.base",
    "PolicyServer": "smolvla_gym.agent.policies.remote.server",
    "RemotePolicy": "smolvla_gym.agent.policies.remote.client",
    "SmolVLAAgent": "smolvla_gym.agent.smolvla_agent",
    "bundled_checkpoint": "smolvla_gym.agent.checkpoint.hub",
    "load_checkpoint": "smolvla_gym.agent.checkpoint.load",
    "resize_area": "smolvla_gym.agent.images",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
