"""Select the action of each control step: a queue of planned actions, merged from action chunks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.aggregation import Aggregate, latest_only
from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.parol6 import ACTION_NAMES

Array = NDArray[np.float32]

_WIDTH = len(ACTION_NAMES)


class ActionQueue:
    """Planned actions that were not executed yet, one for each control step.

    The queue counts time in executed actions, not in control steps. While the arm holds because the queue is empty,
    this time stands still: the arm is where the first actions of the next chunk expect it, and none of them expires.

    Attributes:
        executed: Number of actions executed so far.
    """

    def __init__(self) -> None:
        """Create an empty queue."""
        self.executed: int = 0
        self._actions: Array = np.zeros((0, _WIDTH), np.float32)
        self._normalized = self._actions
        self._next = 0

    def merge(self, chunk: Chunk, requested_at: int, aggregate: Aggregate = latest_only) -> int:
        """Add a chunk, aligned in time with the actions that are planned already.

        The first action of a chunk belongs to the moment of its observation. Expired actions, whose moment has passed,
        are dropped. If all have expired and the queue is empty, the last action is kept. Where both the queue and the
        chunk have an action for a moment, ``aggregate`` combines them.

        Args:
            chunk: The chunk, with at least one action.
            requested_at: ``executed`` at the moment of the chunk's observation.
            aggregate: Combines overlapping actions; see :mod:`smolvla_gym.agent.aggregation`.

        Returns:
            Number of actions of the chunk that had expired.

        Raises:
            ValueError: The chunk is empty, or its arrays have the wrong shape.
        """
        if chunk.actions.ndim != 2 or not len(chunk.actions) or chunk.actions.shape != chunk.normalized.shape:
            raise ValueError(f"a chunk has shape (n, action width), not {chunk.actions.shape} {chunk.normalized.shape}")
        length = len(chunk.actions)
        expired = min(max(self.executed - requested_at, 0), length)
        if expired == length:
            if len(self):
                return expired
            expired -= 1
        both = [
            (self._actions[self._next :], chunk.actions[expired:]),
            (self._normalized[self._next :], chunk.normalized[expired:]),
        ]
        overlap = min(len(both[0][0]), len(both[0][1]))
        self._actions, self._normalized = (
            np.concatenate([aggregate(old[:overlap], new[:overlap]), new[overlap:]]) if overlap else np.array(new)
            for old, new in both
        )
        self._next = 0
        return expired

    def pop(self) -> Array | None:
        """Remove and return the next action, shape (7,), or return None if the queue is empty."""
        if self._next >= len(self._actions):
            return None
        action: Array = self._actions[self._next].copy()
        self._next += 1
        self.executed += 1
        return action

    @property
    def planned(self) -> Array:
        """Planned actions: joint targets in rad and gripper opening, shape (n, 7)."""
        return self._actions[self._next :].copy()

    @property
    def leftover(self) -> Array:
        """Planned actions in the policy's normalized units, shape (n, 7)."""
        return self._normalized[self._next :].copy()

    def clear(self) -> None:
        """Drop all planned actions."""
        self._actions = self._normalized = np.zeros((0, _WIDTH), np.float32)
        self._next = 0

    def __len__(self) -> int:
        """Return the number of planned actions."""
        return len(self._actions) - self._next
