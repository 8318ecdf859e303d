"""The plan in time: which action of which chunk comes next."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


class ActionQueue:
    """Actions that are planned and not yet executed, one a control step."""

    def __init__(self) -> None:
        """Begins empty."""
        self._actions: deque[NDArray[np.float32]] = deque()

    def push(self, chunk: NDArray[np.float32]) -> None:
        """Appends the actions of a chunk, shape (n, 7), in the arm's units. They are copied."""
        if chunk.ndim != 2:
            raise ValueError(f"a chunk has shape (n, action width), not {chunk.shape}")
        self._actions.extend(np.array(chunk, dtype=np.float32))

    def pop(self) -> NDArray[np.float32] | None:
        """Removes and returns the next action, shape (7,), or returns None where nothing is planned."""
        return self._actions.popleft() if self._actions else None

    def clear(self) -> None:
        """Forgets the plan."""
        self._actions.clear()

    def __len__(self) -> int:
        """Returns the number of actions left."""
        return len(self._actions)
