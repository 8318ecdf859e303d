"""Choose the mode of chunk scheduling for ``mode="auto"``, by what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

AUTO: Final = "auto"
"""Name of the choice; it is no mode itself."""


def choose_mode(
    max_delay: int,
    *,
    realtime: bool,
    latencies: Sequence[float] = (0.0,),
    aggregate: str | None = None,
    queue_threshold: int | None = None,
) -> str:
    """Return the mode that ``"auto"`` stands for.

    A policy that was trained for inference delays continues what is in execution when its chunk arrives late, so that
    it runs in ``"rtc"`` with any latency. For other policies the evidence is a bundled policy that was trained without
    delays, with three objects in the simulation: place, push and stack together succeeded most often in ``"sync"``,
    86 % at 100 ms and 71 % at 466 ms, against 79 % and 65 % in ``"async"`` and 70 % and 55 % in guided ``"rtc"``. In
    real time a real arm would stand still in each pause of ``"sync"``, so that ``"async"`` is chosen there.

    Args:
        max_delay: Largest inference delay that the policy was trained for; see
            :class:`~smolvla_gym.agent.policies.base.PolicyCard`.
        realtime: Whether control steps take real time, in which a chunk always takes time.
        latencies: Simulated latencies of a chunk in s.
        aggregate: The aggregation function that was asked for; only ``"async"`` has a choice.
        queue_threshold: The threshold that was asked for; above 0 a chunk is requested before the queue is empty.
    """
    if aggregate is not None:
        return "async"
    if max_delay and (realtime or max(latencies) > 0.0):
        return "rtc"
    return "async" if realtime or queue_threshold else "sync"
