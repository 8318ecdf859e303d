"""What became of the chunks of an episode."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import NUM_JOINTS

_REMEMBERED: Final = 100_000
"""Values kept of each kind: the steps of 55 minutes at 30 Hz."""


@dataclass(repr=False)
class AgentStatistics:
    """Of one episode so far. Printed it is one line.

    An episode may be endless: of delays and jumps the latest 100 000 are kept each.

    Attributes:
        steps: Actions that were asked for.
        holding: Whether the last one holds the arm, because the queue was empty.
        waited_steps: Steps in which the arm held because the first chunk had not come yet.
        stalled_steps: Later steps in which it held because the queue had run out.
        chunks: Chunks that came.
        expired_actions: Actions of theirs whose moment was over.
        retries: How often a policy that runs elsewhere was not reached and asked again.
        delays: For each chunk, how many control steps after its observation it came.
        border_jumps: For each chunk but the first, the largest change of a joint in rad between the commands of two
            steps, the later of which is the first one from that chunk.
        inner_jumps: The same for all other steps but the first.
    """

    steps: int = 0
    holding: bool = False
    waited_steps: int = 0
    stalled_steps: int = 0
    chunks: int = 0
    expired_actions: int = 0
    retries: int = 0
    delays: deque[int] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    border_jumps: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    inner_jumps: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def __repr__(self) -> str:
        """Return the counts, the largest delay in steps and the largest jumps in rad, in one line."""
        report = {"steps": self.steps, "holding": self.holding, **self.report()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in report.items())})"

    def note(self, before: NDArray[np.float32] | None, action: NDArray[np.float32], *, border: bool) -> None:
        """Takes note of a command, shape (7,), and of the one before it, None for the first."""
        self.steps += 1
        if before is not None:
            jump = float(np.abs(action - before)[:NUM_JOINTS].max())
            (self.border_jumps if border else self.inner_jumps).append(jump)

    def report(self) -> dict[str, Any]:
        """Returns the counts, and of what is kept the largest delay, and the jumps' 99th percentile and largest."""
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
