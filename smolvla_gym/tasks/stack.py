"""Task: stack the first named cube on the second."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import CUBE_SIZE
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.place import PickAndPlace


class Stack(PickAndPlace):
    """The first named cube has to stand on the second one, released."""

    name = "stack"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "stack the {color} cube on the {base} cube",
        "put the {color} cube on top of the {base} cube",
        "place the {color} cube onto the {base} cube",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "build a tower with the {color} cube on the {base} cube",
        "the {color} cube goes on top of the {base} cube",
        "balance the {color} cube on the {base} cube",
    )
    min_distance: ClassVar[float] = 0.075
    tolerance: ClassVar[float] = CUBE_SIZE / 2
    aligned: ClassVar[float] = tolerance / 2  # the wrist camera shows little of the cube below: tighter never releases

    @override
    def spot(self, world: World, layout: Layout) -> Array:
        below = world.object_position(layout.base)
        height = world.half_height(layout.base) + world.half_height(layout.target)
        return np.array([below[0], below[1], below[2] + height])
