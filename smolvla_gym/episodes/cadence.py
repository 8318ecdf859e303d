"""Timing of the control loop of a real arm."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

LATE: Final = 1e-3
"""Lateness in s above which a step is over its budget."""

Report = dict[str, float]
"""Numbers by name; times are in s and their names end in ``_s``."""


class Cadence:
    """Statistics of ``info["timing"]`` of control steps in real time.

    Example:
        >>> cadence = Cadence()
        >>> for late in (0.0, 0.0, 0.1):
        ...     cadence.add({"step": 0.1 + late, "agent": 0.02 + late, "late": late})
        >>> cadence.report()["rate_hz"], cadence.report()["over_budget"]
        (7.5, 1)
    """

    def __init__(self) -> None:
        """Create statistics of no steps."""
        self._rows = array("d")  # plain numbers: hours of steps take little memory

    def __len__(self) -> int:
        return len(self._rows) // 3

    def add(self, timing: Mapping[str, float]) -> None:
        """Add a step.

        Leave out the first step of an episode: the due times of the others count from it, and the preparations since
        the reset count as its agent's share.

        Args:
            timing: ``step``, from the end of the step before to the end of this one; ``agent``, the part of it before
                the env was called; ``late``, the time between the step's due end and the end of its work; all in s.
        """
        self._rows.extend((timing["step"], timing["agent"], timing["late"]))

    def report(self) -> Report:
        """Return the statistics, empty where there were no steps.

        ``steps``, ``rate_hz`` (the measured control rate), ``over_budget`` (steps that ended more than 1 ms late),
        ``worst_step_s``, ``worst_late_s``, and the medians and 99th percentiles of the duration of a step and of the
        agent's share, ``step_p50_s`` and so on.
        """
        if not self._rows:
            return {}
        step, agent, late = np.frombuffer(self._rows).reshape(-1, 3).T
        values = {
            "rate_hz": len(step) / max(float(step.sum()), 1e-9),
            "worst_step_s": float(step.max()),
            "worst_late_s": float(late.max()),
            **{f"step_p{percent}_s": float(np.percentile(step, percent)) for percent in (50, 99)},
            **{f"agent_p{percent}_s": float(np.percentile(agent, percent)) for percent in (50, 99)},
        }
        counts = {"steps": len(step), "over_budget": int((late > LATE).sum())}
        return counts | {name: round(value, 6) for name, value in values.items()}


class LinkWatch:
    """Statistics of the exchanges with a board since a moment."""

    def __init__(self, link: Any) -> None:
        """Note the board's counters.

        Args:
            link: A ``BoardClient`` in real time.
        """
        self._link = link
        self._began, self._before = time.monotonic(), link.statistics()

    def report(self) -> Report:
        """Return the statistics since this object was created.

        ``serial_hz`` (exchanges with the board a second), ``ticks``, ``replies`` and ``late_ticks``; and
        ``worst_lateness_s`` of a tick since the connection was made.
        """
        elapsed, now = time.monotonic() - self._began, self._link.statistics()
        counts = {
            name: max(0, int(now.get(name, 0) - self._before.get(name, 0)))
            for name in ("ticks", "replies", "late_ticks")
        }
        return {
            "serial_hz": round(counts["ticks"] / max(elapsed, 1e-9), 3),
            **counts,
            "worst_lateness_s": round(float(now.get("worst_lateness_s", 0.0)), 6),
        }


def watch_link(env: gym.Env[Any, Any]) -> LinkWatch | None:
    """Return statistics of the env's board that begin now; None where the env has no board in real time."""
    link = getattr(getattr(env.unwrapped, "backend", None), "link", None)
    if link is None:
        return None
    from smolvla_gym.drivers.board.process import BoardProcess

    return LinkWatch(link) if isinstance(link, BoardProcess) else None


def describe(cadence: Mapping[str, float], link: Mapping[str, float] | None, control_hz: float) -> str:
    """Format both reports as lines of text.

    Args:
        cadence: Report of :meth:`Cadence.report`.
        link: Report of :meth:`LinkWatch.report`, or None.
        control_hz: Nominal control rate in Hz.
    """

    def ms(report: Mapping[str, float], name: str) -> str:
        return f"{1e3 * report[name]:.1f} ms"

    lines = []
    if cadence:
        lines += [
            f"Cadence: {cadence['rate_hz']:.2f} Hz of {control_hz:g}, worst step {ms(cadence, 'worst_step_s')}, "
            f"{cadence['over_budget']} of {cadence['steps']} steps over budget "
            f"(more than 1 ms late; the worst by {ms(cadence, 'worst_late_s')})",
            f"         step p50 {ms(cadence, 'step_p50_s')}, p99 {ms(cadence, 'step_p99_s')}; "
            f"agent p50 {ms(cadence, 'agent_p50_s')}, p99 {ms(cadence, 'agent_p99_s')}",
        ]
    if link:
        lines.append(
            f"Link:    serial {link['serial_hz']:.1f} Hz, {link['replies']} replies in {link['ticks']} ticks, "
            f"{link['late_ticks']} late ticks, worst lateness {ms(link, 'worst_lateness_s')}"
        )
    return "\n".join(lines)
