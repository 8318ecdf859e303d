"""The SmolVLA agent. Importing this costs nothing: torch and lerobot are loaded when a checkpoint is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolvla_gym.agent.action_queue import ActionQueue as ActionQueue
    from smolvla_gym.agent.aggregation import AGGREGATES as AGGREGATES
    from smolvla_gym.agent.checkpoint.load import bundled_checkpoint as bundled_checkpoint
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

_HOMES = {
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
    "bundled_checkpoint": "smolvla_gym.agent.checkpoint.load",
    "load_checkpoint": "smolvla_gym.agent.checkpoint.load",
    "resize_area": "smolvla_gym.agent.images",
}

__all__ = [
    "AGGREGATES",
    "ActionQueue",
    "Chunk",
    "ChunkPolicy",
    "ChunkRequest",
    "LocalPolicy",
    "PolicyCard",
    "PolicyServer",
    "RemotePolicy",
    "SmolVLAAgent",
    "bundled_checkpoint",
    "load_checkpoint",
    "resize_area",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
