"""Task: hold the fingertips over the named disc."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import DISC, DISC_RADIUS
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.expert import move, square_yaw

_HEIGHT = 0.03
_TOLERANCE = 0.015


class Reach(Task):
    """Coloured discs lie on the table; the tool centre point has to stay 3 cm above the named one."""

    name = "reach"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "move the gripper over the {color} disc",
        "reach for the {color} disc",
        "go to the {color} disc",
        "point at the {color} disc",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "position the gripper above the {color} disc",
        "let the fingers stop over the {color} disc",
        "visit the {color} disc",
    )
    kind = DISC

    def _error(self, world: World, layout: Layout) -> float:
        return float(np.linalg.norm(world.tool_position - self._point(layout)))

    @staticmethod
    def _point(layout: Layout) -> Array:
        x, y, z = layout.positions[layout.target]
        return np.array([x, y, z + _HEIGHT])

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        return self._error(world, layout) < _TOLERANCE

    @override
    def progress(self, world: World, layout: Layout) -> float:
        return float(1.0 - np.tanh(5.0 * self._error(world, layout)))

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        gaps = np.linalg.norm(layout.positions[:, :2] - world.tool_position[:2], axis=1)
        nearest = int(gaps.argmin())
        if nearest != layout.target and gaps[nearest] < DISC_RADIUS:
            return "went to another disc"
        return "stayed beside it" if self._error(world, layout) < 0.05 else "did not reach it"

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        point = self._point(layout)
        return move(world, point, square_yaw(point), 1.0)
