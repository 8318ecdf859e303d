"""Motions that the tasks' experts are made of. All are functions of the present state."""

from __future__ import annotations

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.world import World

LEAD = 0.045
"""Distance in m of the commanded position ahead of the tool; at the gate's limits that is about 0.3 m/s."""


def jaw_yaw(world: World) -> float:
    """Return the direction in rad, modulo pi, in which the jaws travel."""
    jaw = world.tool_rotation[:, 1]
    return float(np.arctan2(jaw[1], jaw[0]))


def square_yaw(position: Array) -> float:
    """Return the jaws' direction in rad at a position, shape (2,) or (3,), that needs no turn of J6."""
    return float(np.arctan2(position[1], position[0]) + np.pi / 2)


def nearest_yaw(current: float, target: float, symmetry: float) -> float:
    """Return the yaw in rad nearest to the current one that equals the target modulo a symmetry angle."""
    return current + (target - current + symmetry / 2) % symmetry - symmetry / 2


def yaw_error(world: World, yaw: float) -> float:
    """Return the angle in rad that the jaws have yet to turn; 0 for a gripper whose yaw follows J1."""
    if world.gripper.dh_a != 0.0:
        return 0.0
    current = jaw_yaw(world)
    return abs(nearest_yaw(current, yaw, np.pi) - current)


def move(world: World, position: Array, yaw: float, opening: float) -> Array:
    """Move in a straight line to a position with the fingers pointing down.

    Args:
        world: The present state.
        position: Target of the tool centre point in m, shape (3,).
        yaw: Direction of the jaws' travel in rad.
        opening: Opening of the gripper 0..1.

    Returns:
        An action, shape (7,).
    """
    tool = world.tool_position
    way = np.asarray(position) - tool
    distance = float(np.linalg.norm(way))
    step = tool + way * min(1.0, LEAD / max(distance, 1e-9))
    return np.append(_reach(step, yaw, world), opening)


def _reach(position: Array, yaw: float, world: World) -> Array:
    """Return joint angles for a position, or for the nearest one above the table that the arm can reach.

    They are corrected by the error of the zero positions, so that the tool gets there.
    """
    target = np.array(position)
    for _ in range(60):
        joints = solve(target, yaw, world.gripper, near_j6=world.joints[5])
        if joints is not None:
            return joints - world.zero_error
        # Too far out or too high: move in towards a point that is reachable with every gripper.
        target += 0.05 * (np.array([0.27, 0.0, 0.08]) - target)
    return world.joints


def funnel(
    world: World,
    position: Array,
    yaw: float,
    hover: float,
    opening: float,
    tolerance: float = 0.004,
    lead: Array | None = None,
) -> Array:
    """Descend on a position from above: the farther off sideways (or turned), the higher the tool stays.

    Args:
        world: The present state.
        position: Target of the tool centre point in m, shape (3,).
        yaw: Direction of the jaws' travel in rad.
        hover: Travelling height in m above the position.
        opening: Opening of the gripper 0..1.
        tolerance: Largest sideways error in m at which the tool goes down.
        lead: Way in m that a moving position goes until the tool is there, shape (3,); None: it does not move.
    """
    tool = world.tool_position
    sideways = float(np.linalg.norm(tool[:2] - position[:2]))
    error = max(sideways, 0.05 * yaw_error(world, yaw))
    height = hover * float(np.clip((error - tolerance) / 0.02, 0.0, 1.0))
    waypoint = np.array([position[0], position[1], position[2] + height])
    if tool[2] < waypoint[2] - 0.01 and sideways > 0.02:
        # Too low to travel: go up first, almost vertically.
        way = waypoint[:2] - tool[:2]
        waypoint[:2] = tool[:2] + way * min(1.0, 0.005 / max(sideways, 1e-9))
    return move(world, waypoint if lead is None else waypoint + lead, yaw, opening)
