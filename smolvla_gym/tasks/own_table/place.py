"""Task: put the named object of one's own on the white plate."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move, square_yaw
from smolvla_gym.tasks.grasping import HOVER
from smolvla_gym.tasks.own_table.handling import holding
from smolvla_gym.tasks.own_table.task import OwnTask
from smolvla_gym.tasks.place import Place, PutDown

_AT_REST = 0.02
_CLEARANCE = 0.02


class OwnPutDown(PutDown, OwnTask):
    """Task in which an own object has to be put down and released, and then stay in place for half a second."""

    @override
    def _holding(self, world: World, target: int) -> bool:
        return holding(world, target)

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        target, tool = layout.target, world.tool_position
        spot, error = self.spot(world, layout), self._error(world, layout)
        landed = float(np.linalg.norm(error[:2])) < 0.6 * self.tolerance and error[2] < 0.003
        highest = self.handling.highest(world, target)
        if landed:
            # Release, wait until the jaws are clear, then go straight up.
            clear = world.released(target) and world.opening > 0.8
            height = max(spot[2] + HOVER, highest + HOVER) if clear else tool[2]
            return move(world, np.array([tool[0], tool[1], height]), jaw_yaw(world), 1.0)
        if not holding(world, target):
            return self.handling.fetch(world, target)
        # The object may be off centre between the jaws.
        aim = spot + (tool - world.object_position(target))
        hover = max(0.03, highest + _CLEARANCE - (spot[2] - world.half_height(target)))
        return funnel(world, aim, self._yaw(world, layout, spot), hover, 0.0, tolerance=self.aligned)

    def _yaw(self, world: World, layout: Layout, spot: Array) -> float:
        """Return the yaw of the jaws in rad with which the expert puts the object down."""
        return square_yaw(spot)


class OwnPlace(OwnPutDown):
    """The named object has to stand on the plate, released."""

    name: ClassVar[str] = Place.name
    instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} cube", "{object}") for template in Place.instruction_templates
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} cube", "{object}") for template in Place.unseen_instruction_templates
    )
    has_goal = True
    tolerance: ClassVar[float] = Place.tolerance
    aligned: ClassVar[float] = Place.aligned

    @override
    def spot(self, world: World, layout: Layout) -> Array:
        assert layout.goal is not None  # noqa: S101 - narrows a type
        height = world.half_height(layout.target) + world.table_height
        return np.array([layout.goal[0], layout.goal[1], height])
