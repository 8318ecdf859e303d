"""Task: put the named cube on the white plate; base class of tasks in which a cube is put down."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import CUBE, GOAL_RADIUS
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move, square_yaw
from smolvla_gym.tasks.grasping import HOVER, fetch, grasp_shortfall, holding, reaching

_AT_REST = 0.02


class PutDown(Task):
    """Task in which an object has to be put down and released, and then stay in place for half a second."""

    tolerance: ClassVar[float]
    """Largest sideways distance in m of the object from its place."""
    aligned: ClassVar[float]
    """Sideways distance in m at which the expert begins to lower the object."""

    @abstractmethod
    def spot(self, world: World, layout: Layout) -> Array:
        """Return where the object's middle has to be, in m, shape (3,)."""

    def _holding(self, world: World, target: int) -> bool:
        return holding(world, target)

    def _error(self, world: World, layout: Layout) -> Array:
        return world.object_position(layout.target) - self.spot(world, layout)

    def _in_place(self, world: World, layout: Layout) -> bool:
        error = self._error(world, layout)
        return float(np.linalg.norm(error[:2])) < self.tolerance and abs(error[2]) < 0.006

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        target = layout.target
        return self._in_place(world, layout) and world.released(target) and world.object_speed(target) < _AT_REST

    @override
    def progress(self, world: World, layout: Layout) -> float:
        if self._in_place(world, layout):
            return 0.8 + 0.2 * world.released(layout.target)
        held = self._holding(world, layout.target)
        near = 1.0 - np.tanh(4.0 * float(np.linalg.norm(self._error(world, layout))))
        return float(0.3 * reaching(world, layout.target) + held * (0.2 + 0.3 * near))

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        if self._in_place(world, layout):
            return "did not let go"
        return "did not put it down" if self._holding(world, layout.target) else grasp_shortfall(world, layout)


class PickAndPlace(PutDown):
    """Task in which a cube has to be put down and released, and then stay in place for half a second."""

    kind = CUBE

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        target, tool = layout.target, world.tool_position
        spot = self.spot(world, layout)
        error = self._error(world, layout)
        sideways = float(np.linalg.norm(error[:2]))
        landed = sideways < 0.6 * self.tolerance and error[2] < 0.003
        if landed:
            # Release, wait until the jaws are clear, then go straight up.
            clear = world.released(target) and world.opening > 0.8
            height = spot[2] + HOVER if clear else tool[2]
            return move(world, np.array([tool[0], tool[1], height]), jaw_yaw(world), 1.0)
        if not holding(world, target):
            return fetch(world, target)
        # The cube may be off centre between the jaws.
        aim = spot + (tool - world.object_position(target))
        # The yaw is free: the cube hides the edges from which a policy would have to estimate it.
        return funnel(world, aim, square_yaw(spot), HOVER, 0.0, tolerance=self.aligned)


class Place(PickAndPlace):
    """The named cube has to stand on the plate, released."""

    name = "place"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "put the {color} cube on the plate",
        "place the {color} cube on the white plate",
        "set the {color} cube down on the plate",
        "move the {color} cube onto the plate",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "deposit the {color} cube on the plate",
        "the {color} cube belongs on the white plate",
        "carry the {color} cube over to the plate and let go",
    )
    has_goal = True
    min_distance: ClassVar[float] = 0.085
    tolerance: ClassVar[float] = GOAL_RADIUS - 0.010
    aligned: ClassVar[float] = tolerance / 4

    @override
    def spot(self, world: World, layout: Layout) -> Array:
        assert layout.goal is not None  # noqa: S101 - narrows a type
        return np.array([layout.goal[0], layout.goal[1], world.half_height(layout.target)])
