"""How well the control loop of a real arm kept its beat."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from typing import Any, Final

import gymnasium as gym
import numpy as np

LATE: Final = 1e-3
"""Lateness in s from which on a step is over its budget."""

Report = dict[str, float]
"""Numbers by name; times are in s and their names end in ``_s``."""


class Cadence:
    """Collects ``info["timing"]`` of steps in real time.

    Example:
        >>> cadence = Cadence()
        >>> for late in (0.0, 0.0, 0.1):
        ...     cadence.add({"step": 0.1 + late, "agent": 0.02 + late, "late": late})
        >>> cadence.report()["rate_hz"], cadence.report()["over_budget"]
        (7.5, 1)
    """

    def __init__(self) -> None:
        """Starts with no steps."""
        self._rows = array("d")  # plain numbers: hours of steps take no memory to speak of

    def __len__(self) -> int:
        return len(self._rows) // 3

    def add(self, timing: Mapping[str, float]) -> None:
        """Takes a step.

        The first one of an episode is better left out: it sets the beat, and what was prepared since the reset counts
        as its agent's share.

        Args:
            timing: ``step``, from the end of the step before to the end of this one; ``agent``, the part of it before
                the env was called; ``late``, how long after its due end there was still
                something to do but wait; all in s.
        """
        self._rows.extend((timing["step"], timing["agent"], timing["late"]))

    def report(self) -> Report:
        """Returns what there is to know, empty where there were no steps.

        ``steps``, ``rate_hz`` (steps a second in fact), ``over_budget`` (steps that ended more than 1 ms late),
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
            "step_p50_s": float(np.percentile(step, 50)),
            "step_p99_s": float(np.percentile(step, 99)),
            "agent_p50_s": float(np.percentile(agent, 50)),
            "agent_p99_s": float(np.percentile(agent, 99)),
        }
        counts = {"steps": len(step), "over_budget": int((late > LATE).sum())}
        return counts | {name: round(value, 6) for name, value in values.items()}


class LinkWatch:
    """Compares the statistics of an arm's link at two moments."""

    def __init__(self, link: Any) -> None:
        """Begins.

        Args:
            link: A ``BoardClient`` in real time.
        """
        self._link = link
        self._began, self._before = time.monotonic(), link.statistics()

    def report(self) -> Report:
        """Returns what happened since the beginning.

        ``serial_hz`` (exchanges with the board a second), ``ticks``, ``replies`` and ``late_ticks``; and
        ``worst_lateness_s`` of a tick since the link was made.
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
    """Begins to watch the link of an env's arm; None where it has none or runs on simulated time."""
    link = getattr(getattr(env.unwrapped, "backend", None), "link", None)
    if link is None:
        return None
    from smolvla_gym.drivers.board.process import BoardProcess

    return LinkWatch(link) if isinstance(link, BoardProcess) else None


def describe(cadence: Mapping[str, float], link: Mapping[str, float] | None, control_hz: float) -> str:
    """Returns both reports as lines for people.

    Args:
        cadence: Of :meth:`Cadence.report`.
        link: Of :meth:`LinkWatch.report`, or None.
        control_hz: The rate that was wanted.
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
