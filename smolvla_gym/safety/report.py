"""Reports of the safety functions: interventions, and the shaping of motions by their limits.

Shaping is the normal case: targets may lie far away, and the arm goes there at its limits of speed and acceleration.
An intervention is the exception: a safety function replaced or stopped what was commanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypedDict

Rule = Literal["position", "collision", "workspace", "reach", "watchdog", "fault"]
"""Kind of an intervention.

- ``position``: a target outside the soft limits was clamped.
- ``collision``, ``workspace``: the arm brakes, as it would penetrate itself or the table, or leave its workspace.
- ``reach``: ``ToolAction`` holds the arm, as no joint angles reach the commanded pose.
- ``watchdog``: the driver brakes the arm, as no action came in time.
- ``fault``: a fault holds the arm.
"""

Shaping = dict[str, int]
"""Number of joints that a limit slowed down, by limit: ``speed``, ``acceleration`` (which includes jerk) and, with
``DeltaJointAction``, ``lead``. A limit that slowed nothing is absent.
"""

STOPPING_RULES: Final = ("collision", "workspace", "watchdog", "fault")
"""Rules after which the arm no longer goes to its last target."""


class Intervention(TypedDict):
    """An intervention of a safety function.

    Attributes:
        rule: Its kind, see :data:`Rule`.
        where: Name of the joint, pair of links, pose of the tool, or ``"arm"`` for all of it.
        why: The reason with its values, one sentence.
    """

    rule: Rule
    where: str
    why: str


class Violation(NamedTuple):
    """A reason why a pose must not be commanded.

    Attributes:
        rule: ``"collision"`` or ``"workspace"``.
        where: The pair that comes too near, such as ``"the table and the jaw_left"``.
    """

    rule: Literal["collision", "workspace"]
    where: str


class GateReport(NamedTuple):
    """Report of the safety gate on an action.

    Attributes:
        interventions: The clamped targets.
        shaping: Number of joints that each limit keeps from their targets for longer than a control period.
    """

    interventions: tuple[Intervention, ...]
    shaping: Shaping


def fault_intervention(fault: str, detail: str) -> Intervention:
    """Return the intervention of a fault.

    Args:
        fault: Its name.
        detail: A sentence on what happened.
    """
    return {"rule": "fault", "where": "arm", "why": f"{fault}: {detail}"}


def stop_intervention(violation: Violation, depth: float) -> Intervention:
    """Return the intervention of a stop before a pose that must not be commanded.

    Args:
        violation: The reason.
        depth: Penetration, or distance beyond the workspace, in m.
    """
    why = f"{violation.where} would overlap by {1e3 * depth:.1f} mm: the arm brakes"
    return {"rule": violation.rule, "where": violation.where, "why": why}


def add_shaping(total: Shaping, more: Mapping[str, int]) -> None:
    """Add counters of shaping to others, in place."""
    for limit, count in more.items():
        total[limit] = total.get(limit, 0) + count
