"""Routes of the arm to a pose, checked by the safety gate before the arm moves."""

from __future__ import annotations

from typing import Final

import numpy as np

from smolvla_gym.parol6 import JOINT_LOWER, STANDBY, Array
from smolvla_gym.safety.gate import Guard, SafetyGate

_TICK: Final = 0.01
"""Time in s between two checked poses: the period of the driver."""

_ARRIVED: Final = 1e-3  # rad
_RAISED: Final = 0.4  # rad by which J2 leans back to lift the tool off the table


class BlockedError(Exception):
    """No route was found. The text names what blocks the straight one."""


def find_route(
    start: Array, opening: float, goal: Array, goal_opening: float, guard: Guard | None, *, speed_scale: float = 1.0
) -> list[Array]:
    """Find a route between two poses that the gate does not stop.

    The straight route is tried first, then routes over upright poses, from which the arm turns clear of the table.

    Args:
        start: Joint angles in rad at which the arm rests, shape (6,).
        opening: Opening of the gripper there and on the route, 0..1.
        goal: Joint angles in rad to reach, shape (6,).
        goal_opening: Opening to reach on the last part of the route, 0..1.
        guard: Check of poses that must not be commanded; None allows all.
        speed_scale: Share of the speed limits that is used.

    Returns:
        The poses to drive to one after the other, the goal last.

    Raises:
        BlockedError: Each route that was tried is blocked.
    """
    raised = np.array(start)
    raised[1] = max(raised[1] - _RAISED, JOINT_LOWER[1])
    here, there = STANDBY.copy(), STANDBY.copy()
    here[[0, 5]], there[[0, 5]] = start[[0, 5]], goal[[0, 5]]
    gate = SafetyGate(_TICK, speed_scale=speed_scale, guard=guard)
    first = ""
    for via in ((), (there,), (here, there), (raised, here, there)):
        route, at = [*via, np.array(goal)], start
        for pose in route:
            last = pose is route[-1]
            blocked = _blocked(gate, at, opening, pose, goal_opening if last else opening)
            if blocked is not None:
                break
            at = pose
        else:
            return route
        first = first or blocked
    raise BlockedError(first)


def _blocked(gate: SafetyGate, start: Array, opening: float, goal: Array, goal_opening: float) -> str | None:
    """Return what blocks the straight route from rest to a pose; None if the arm arrives."""
    gate.reset(start, opening)
    gate.aim(np.append(goal, goal_opening))
    while not gate.at_rest:
        for stop in gate.advance(_TICK):
            return stop["where"]
    return None if np.abs(gate.position - goal).max() < _ARRIVED else "the arm and the end of a joint's range"
