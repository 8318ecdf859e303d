"""Task: pick up the named cube."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import CUBE, CUBE_SIZE
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.expert import jaw_yaw, move
from smolvla_gym.tasks.grasping import fetch, grasp_shortfall, holding, reaching

LIFT_HEIGHT = 0.05
"""Least height in m of the cube's underside above the table."""


class Lift(Task):
    """The named cube has to be held by both jaws, 5 cm above the table, for half a second."""

    name = "lift"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "pick up the {color} cube",
        "lift the {color} cube",
        "grab the {color} cube",
        "take the {color} cube",
        "raise the {color} cube off the table",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "hoist the {color} cube",
        "get hold of the {color} cube and raise it",
        "I want the {color} cube in the air",
    )
    kind = CUBE

    @staticmethod
    def _height(world: World, layout: Layout) -> float:
        return float(world.object_position(layout.target)[2] - world.half_height(layout.target))

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        return self._height(world, layout) > LIFT_HEIGHT and world.grasped(layout.target)

    @override
    def progress(self, world: World, layout: Layout) -> float:
        height = float(np.clip(self._height(world, layout) / LIFT_HEIGHT, 0.0, 1.0))
        held = holding(world, layout.target)
        return 0.4 * reaching(world, layout.target) + 0.2 * held + 0.4 * height * held

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        return "did not lift it" if holding(world, layout.target) else grasp_shortfall(world, layout)

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        if not holding(world, layout.target):
            return fetch(world, layout.target)
        x, y, _ = world.tool_position
        return move(world, np.array([x, y, LIFT_HEIGHT + CUBE_SIZE / 2 + 0.03]), jaw_yaw(world), 0.0)
