"""Statistics of the chunks of an episode."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import NUM_JOINTS

HISTORY_LENGTH: Final = 100_000
"""Number of recent delays and of recent jumps that are kept: the steps of 55 minutes at 30 Hz."""


def _history() -> deque[Any]:
    return deque(maxlen=HISTORY_LENGTH)


@dataclass(repr=False)
class AgentStatistics:
    """Statistics of one episode so far. The repr is one line.

    An episode may be endless: the latest 100 000 delays and jumps are kept.

    Attributes:
        steps: Control steps so far.
        holding: Whether the latest action holds the arm, because the queue was empty.
        waited_steps: Steps in which the arm held before the first chunk arrived.
        stalled_steps: Later steps in which the arm held because the queue was empty.
        chunks: Chunks that arrived.
        expired_actions: Actions whose moment had passed when their chunk arrived.
        retries: Requests that were repeated because the policy server could not be reached.
        delays: Inference delay of each chunk: control steps from its observation to its arrival.
        border_jumps: For each chunk but the first, the largest change of a joint target in rad from the previous step
            to the first step of the chunk.
        inner_jumps: The same for all other steps but the first.
    """

    steps: int = 0
    holding: bool = False
    waited_steps: int = 0
    stalled_steps: int = 0
    chunks: int = 0
    expired_actions: int = 0
    retries: int = 0
    delays: deque[int] = field(default_factory=_history)
    border_jumps: deque[float] = field(default_factory=_history)
    inner_jumps: deque[float] = field(default_factory=_history)

    def __repr__(self) -> str:
        """Return the counts, the largest delay in steps and the largest jumps in rad, in one line."""
        report = {"steps": self.steps, "holding": self.holding, **self.report()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in report.items())})"

    def record(self, before: NDArray[np.float32] | None, action: NDArray[np.float32], *, border: bool) -> None:
        """Record a control step.

        Args:
            before: The previous action, shape (7,); None in the first step.
            action: The action, shape (7,).
            border: Whether the action is the first one of a chunk that follows another chunk.
        """
        self.steps += 1
        if before is not None:
            jump = float(np.abs(action - before)[:NUM_JOINTS].max())
            (self.border_jumps if border else self.inner_jumps).append(jump)

    def report(self) -> dict[str, Any]:
        """Return the counts, the largest delay, and the 99th percentile and the maximum of the jumps."""
        return {
            "chunks": self.chunks,
            "waited_steps": self.waited_steps,
            "stalled_steps": self.stalled_steps,
            "expired_actions": self.expired_actions,
            "retries": self.retries,
            "max_delay": max(self.delays, default=0),
            **_spread("border_jump", self.border_jumps),
            **_spread("inner_jump", self.inner_jumps),
        }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        f"{name}_p99_rad": round(float(np.percentile(values, 99)), 5),
        f"{name}_max_rad": round(max(values), 5),
    }
