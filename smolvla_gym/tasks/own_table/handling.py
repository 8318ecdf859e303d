"""Motions of the experts with objects of one's own. They know only the shape and the present pose of an object."""

from __future__ import annotations

from typing import Final

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.parol6.inverse_kinematics import solve
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move, nearest_yaw, square_yaw
from smolvla_gym.tasks.own_table.grasps import JAWS, Grasps, find_grasps
from smolvla_gym.tasks.own_table.occupancy import occupied

_TURN_COST: Final = 0.003
"""Cost in m of a turn of J6 by 1 rad."""

_FIXED_YAW_COST: Final = 0.1
"""The same for a gripper that cannot turn about the vertical."""

_STEP: Final = 8.0
"""Reciprocal of the steps in which an orientation is rounded, for which grasps are kept."""

_HOVER: Final = 0.07
_CLEARANCE: Final = 0.025
"""Height in m at which fingers or a held object travel above the highest object."""

_AT: Final = 0.0035
"""Distance in m of the tool from a grasp, sideways and along the fingers, at which open jaws begin to close."""

_STILL_AT: Final = 0.008
"""The same for jaws that close already: they shift the object."""


class Handling:
    """Grasps of the objects of a table, found when they are first needed."""

    def __init__(self, table: OwnTable) -> None:
        """Keep a table.

        Args:
            table: The table.
        """
        self._table = table
        self._points: dict[int, tuple[Array, float, Array]] = {}
        self._grasps: dict[tuple[object, ...], Grasps] = {}

    def grasps(self, world: World, index: int) -> tuple[Array, Array, Array]:
        """Return the grasps of an object as it lies.

        Args:
            world: The present state.
            index: The object.

        Returns:
            Tool centre points in m, shape (n, 3), yaws of the jaws' travel in rad, shape (n,), and costs in m, shape
            (n,); n may be 0.
        """
        rotation = world.object_rotation(index)
        yaw = float(np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1]))
        cosine, sine = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        found = self._found(world, index, turn.T @ rotation)
        points = world.object_position(index) + found.points @ turn.T
        yaws, costs = found.yaws + yaw, found.costs
        turning = _FIXED_YAW_COST if world.gripper.dh_a != 0.0 else _TURN_COST
        square = np.arctan2(points[:, 1], points[:, 0]) + np.pi / 2
        turns = np.abs((yaws - square + np.pi / 2) % np.pi - np.pi / 2)
        return points, yaws, costs + turning * turns

    def width(self, world: World, index: int) -> float | None:
        """Return the width in m of an object where the jaws hold it best, as it lies; None where they cannot."""
        widths = self._found(world, index, np.eye(3)).widths
        return float(widths[0]) if len(widths) else None

    def _found(self, world: World, index: int, lying: Array) -> Grasps:
        scale = round(world.sizes.scale(index), 2)
        # Upright objects, which is nearly all of them, need grasps once.
        rounded = np.eye(3) if lying[2, 2] > 0.999 else np.round(lying * _STEP) / _STEP
        key = (index, scale, world.gripper.name, rounded.tobytes())
        if key not in self._grasps:
            if len(self._grasps) > 200:
                self._grasps.clear()
            exact = np.eye(3) if lying[2, 2] > 0.999 else lying
            points, pitch, center = self._solid(world, index)
            self._grasps[key] = find_grasps(
                scale * points @ exact.T, scale * pitch, JAWS[world.gripper.name], scale * exact @ center
            )
        return self._grasps[key]

    def solid(self, world: World, index: int) -> Array:
        """Return points inside an object in its own frame in m, shape (n, 3)."""
        return world.sizes.scale(index) * self._solid(world, index)[0]

    def _solid(self, world: World, index: int) -> tuple[Array, float, Array]:
        """Return points inside an object at its nominal size, their distance and its centre of mass, in m."""
        if index not in self._points:
            body, scale = world.object_body(index), world.sizes.scale(index)
            points, pitch = occupied(world.model, body)
            points = points / scale
            # A body of several bodies has no centre of mass of its own in the model.
            alone = world.model.body_subtreemass[body] == world.model.body_mass[body]
            center = np.array(world.model.body_ipos[body]) if alone else points.mean(axis=0)
            self._points[index] = points, pitch / scale, center
        return self._points[index]

    def fetch(self, world: World, index: int) -> Array:
        """Move to an object and close the gripper on it; an expert does this until the jaws hold it."""
        points, yaws, costs = self.grasps(world, index)
        if not len(points):
            return move(world, world.tool_position, jaw_yaw(world), 1.0)
        at = self._at(world, points, yaws)
        if at.any():
            chosen = int(np.flatnonzero(at)[costs[at].argmin()])
            return move(world, points[chosen], yaws[chosen], 0.0)
        chosen = self._choose(world, index, points, yaws, costs)
        grasp, yaw = points[chosen], float(nearest_yaw(square_yaw(points[chosen]), yaws[chosen], np.pi))
        hover = max(_HOVER, self.highest(world, -1) + _CLEARANCE + JAWS[world.gripper.name].below - grasp[2])
        return funnel(world, grasp, yaw, hover, 1.0, tolerance=0.002)

    def _at(self, world: World, points: Array, yaws: Array) -> Array:
        """Return at which grasps the tool is."""
        near = _AT if world.opening > 0.9 else _STILL_AT
        offset = points - world.tool_position
        turned = np.abs((yaws - jaw_yaw(world) + np.pi / 2) % np.pi - np.pi / 2)
        flat = np.linalg.norm(offset[:, :2], axis=1)
        slack = 0.10 if world.opening > 0.9 else 0.35
        return np.asarray((flat < near) & (np.abs(offset[:, 2]) < near) & (turned < slack))

    def _choose(self, world: World, index: int, points: Array, yaws: Array, costs: Array) -> int:
        """Return the best grasp that the arm reaches, and whose fingers are clear of other objects."""
        costs = costs + self._crowding(world, index, points, yaws)
        order = np.argsort(costs)
        for chosen in order[:10]:
            if solve(points[chosen], float(yaws[chosen]), world.gripper, near_j6=world.joints[5]) is not None:
                return int(chosen)
        return int(order[0])

    def _crowding(self, world: World, index: int, points: Array, yaws: Array) -> Array:
        """Return a cost in m for fingers that would touch other objects, shape (n,)."""
        jaws = JAWS[world.gripper.name]
        reach = 0.5 * jaws.widest + 0.5 * jaws.thickness
        jaw = np.column_stack([np.cos(yaws), np.sin(yaws)])
        cost = np.zeros(len(points))
        for other, thing in enumerate(self._table.objects):
            place = world.object_position(other)
            if other == index or place[2] < self._table.height - 0.1:
                continue
            for side in (-reach, reach):
                gap = np.linalg.norm(points[:, :2] + side * jaw - place[:2], axis=1) - thing.radius - jaws.thickness
                cost += np.maximum(0.012 - gap, 0.0)
        return cost

    def highest(self, world: World, besides: int) -> float:
        """Return the height in m of the top of the highest object on the table.

        Args:
            world: The present state.
            besides: An object that does not count, or -1.
        """
        tops = [
            float(world.object_position(i)[2]) + self._table.objects[i].half_height
            for i in range(len(self._table.objects))
            if i != besides and world.object_position(i)[2] > self._table.height - 0.1
        ]
        return max([self._table.height, *tops])


def holding(world: World, index: int) -> bool:
    """Return whether both jaws' pads are in contact with an object that is between them."""
    return world.grasped(index)


def underside(world: World, index: int) -> float:
    """Return the height in m of the underside of an object above the table, if it has kept its orientation."""
    return float(world.object_position(index)[2] - world.half_height(index) - world.table_height)
