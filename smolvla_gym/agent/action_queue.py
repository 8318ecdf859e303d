"""The plan in time: which action of which chunk comes next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.agent.aggregation import Aggregate, latest_only
from smolvla_gym.agent.policies.base import Chunk
from smolvla_gym.parol6 import ACTION_NAMES

Array = NDArray[np.float32]

_WIDTH = len(ACTION_NAMES)


class ActionQueue:
    """Actions that are planned and not yet executed, one a control step.

    Time is counted in actions that were popped, not in steps: while the arm holds for want of a plan it stays where
    the next chunk's first actions find it, and none of them is overdue.

    Attributes:
        popped: How many actions were executed so far.
    """

    def __init__(self) -> None:
        """Begins empty."""
        self.executed = 0
        self._actions: Array = np.zeros((0, _WIDTH), np.float32)
        self._latent = self._actions
        self._next = 0

    def merge(self, chunk: Chunk, requested_at: int, aggregate: Aggregate = latest_only) -> int:
        """Puts a chunk where it belongs in time.

        Its first action belongs to the moment of its observation. Those whose moment is over are left out; of a chunk
        that is altogether late the last one is kept where nothing else is planned. Where older actions are planned
        for the same moments, ``aggregate`` makes one of both.

        Args:
            chunk: The chunk; at least one action.
            requested_at: ``popped`` at the moment of its observation.
            aggregate: See :mod:`smolvla_gym.agent.aggregation`.

        Returns:
            How many of its actions were overdue.
        """
        if chunk.actions.ndim != 2 or not len(chunk.actions) or chunk.actions.shape != chunk.normalized.shape:
            raise ValueError(f"a chunk has shape (n, action width), not {chunk.actions.shape} {chunk.normalized.shape}")
        length = len(chunk.actions)
        overdue = min(max(self.executed - requested_at, 0), length)
        if overdue == length:
            if len(self):
                return overdue
            overdue -= 1
        both = [
            (self._actions[self._next :], chunk.actions[overdue:]),
            (self._latent[self._next :], chunk.normalized[overdue:]),
        ]
        overlap = min(len(both[0][0]), len(both[0][1]))
        self._actions, self._latent = (
            np.concatenate([aggregate(old[:overlap], new[:overlap]), new[overlap:]]) if overlap else np.array(new)
            for old, new in both
        )
        self._next = 0
        return overdue

    def pop(self) -> Array | None:
        """Removes and returns the next action, shape (7,), or returns None where nothing is planned."""
        if self._next >= len(self._actions):
            return None
        action: Array = self._actions[self._next].copy()
        self._next += 1
        self.executed += 1
        return action

    @property
    def planned(self) -> Array:
        """What is planned, in rad and opening, shape (n, 7)."""
        return self._actions[self._next :].copy()

    @property
    def leftover(self) -> Array:
        """What is planned, in the policy's own units, shape (n, 7)."""
        return self._latent[self._next :].copy()

    def clear(self) -> None:
        """Forgets the plan."""
        self._actions = self._latent = np.zeros((0, _WIDTH), np.float32)
        self._next = 0

    def __len__(self) -> int:
        """Returns the number of actions left."""
        return len(self._actions) - self._next
