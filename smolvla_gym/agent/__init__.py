"""The SmolVLA agent. Importing this costs nothing: torch and lerobot are loaded when a checkpoint is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smolvla_gym.agent.aggregation import AGGREGATES as AGGREGATES
    from smolvla_gym.agent.checkpoint import bundled_checkpoint as bundled_checkpoint
    from smolvla_gym.agent.checkpoint import load_checkpoint as load_checkpoint
    from smolvla_gym.agent.chunks import ActionQueue as ActionQueue
    from smolvla_gym.agent.images import resize_area as resize_area
    from smolvla_gym.agent.local_policy import LocalPolicy as LocalPolicy
    from smolvla_gym.agent.policy import Chunk as Chunk
    from smolvla_gym.agent.policy import ChunkPolicy as ChunkPolicy
    from smolvla_gym.agent.policy import ChunkRequest as ChunkRequest
    from smolvla_gym.agent.policy import PolicyCard as PolicyCard
    from smolvla_gym.agent.remote.client import RemotePolicy as RemotePolicy
    from smolvla_gym.agent.remote.server import PolicyServer as PolicyServer
    from smolvla_gym.agent.smolvla import SmolVLAAgent as SmolVLAAgent

_HOMES = {
    "AGGREGATES": "smolvla_gym.agent.aggregation",
    "ActionQueue": "smolvla_gym.agent.chunks",
    "Chunk": "smolvla_gym.agent.policy",
    "ChunkPolicy": "smolvla_gym.agent.policy",
    "ChunkRequest": "smolvla_gym.agent.policy",
    "LocalPolicy": "smolvla_gym.agent.local_policy",
    "PolicyCard": "smolvla_gym.agent.policy",
    "PolicyServer": "smolvla_gym.agent.remote.server",
    "RemotePolicy": "smolvla_gym.agent.remote.client",
    "SmolVLAAgent": "smolvla_gym.agent.smolvla",
    "bundled_checkpoint": "smolvla_gym.agent.checkpoint",
    "load_checkpoint": "smolvla_gym.agent.checkpoint",
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
