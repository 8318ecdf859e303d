"""Task: pick up the named object of one's own."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.expert import jaw_yaw, move
from smolvla_gym.tasks.grasping import grasp_shortfall, reaching
from smolvla_gym.tasks.lift import LIFT_HEIGHT, Lift
from smolvla_gym.tasks.own_table.handling import holding, underside
from smolvla_gym.tasks.own_table.task import OwnTask

_ABOVE = 0.03
"""Height in m by which the expert lifts an object higher than it has to."""


class OwnLift(OwnTask):
    """The named object has to be held by both jaws, 5 cm above the table, for half a second."""

    name: ClassVar[str] = Lift.name
    instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} cube", "{object}") for template in Lift.instruction_templates
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} cube", "{object}") for template in Lift.unseen_instruction_templates
    )

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        return underside(world, layout.target) > LIFT_HEIGHT and holding(world, layout.target)

    @override
    def progress(self, world: World, layout: Layout) -> float:
        height = float(np.clip(underside(world, layout.target) / LIFT_HEIGHT, 0.0, 1.0))
        held = holding(world, layout.target)
        return 0.4 * reaching(world, layout.target) + 0.2 * held + 0.4 * height * held

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        return "did not lift it" if holding(world, layout.target) else grasp_shortfall(world, layout)

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        target = layout.target
        if not holding(world, target):
            return self.handling.fetch(world, target)
        x, y, z = world.tool_position
        return move(world, np.array([x, y, z + LIFT_HEIGHT + _ABOVE - underside(world, target)]), jaw_yaw(world), 0.0)
