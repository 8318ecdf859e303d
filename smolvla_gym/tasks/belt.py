"""Task: pick up the named cube from a moving belt."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.belt import BELT_HEIGHT, BELT_REACH, belt_x
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move
from smolvla_gym.tasks.grasping import HOVER, between_jaws, cube_yaw, holding
from smolvla_gym.tasks.lift import LIFT_HEIGHT, Lift

_LAG = 0.23
"""Time in s by which the tool trails its target at the gate's limits."""

_TOOL_SPEED = 0.25
"""Speed in m/s at which the tool travels."""

_SIDE = 0.012
"""Largest distance in m of a cube from the middle of the belt."""

_GAP = (0.065, 0.075)
"""Distance in m between two cubes along the belt."""

_FARTHEST = 0.12
"""Largest distance in m of a cube from the middle along the belt at first."""


class BeltLift(Lift):
    """The named cube has to be held by both jaws, 5 cm above the table, for half a second; a belt carries it.

    The belt carries the cubes to and fro while a policy computes, at the speed of the env's ``belt_speed=`` option.
    """

    name = "belt"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "pick up the {color} cube from the belt",
        "lift the {color} cube off the belt",
        "grab the {color} cube on the belt",
        "take the {color} cube from the moving belt",
        "raise the {color} cube off the belt",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "catch the {color} cube on the conveyor",
        "get hold of the {color} cube while the belt moves",
        "I want the {color} cube off the belt",
    )
    has_belt = True

    @override
    def _places(self, rng: np.random.Generator, gripper: str, count: int, randomization: int) -> Array:
        if not randomization:
            y = np.linspace(-0.5, 0.5, count) * _GAP[0] * (count - 1)
            return np.column_stack([np.full(count, belt_x(gripper)), y])
        y = np.concatenate([[0.0], np.cumsum(rng.uniform(*_GAP, count - 1))])
        y += rng.uniform(-_FARTHEST, _FARTHEST - y[-1])
        return np.column_stack([belt_x(gripper) + rng.uniform(-_SIDE, _SIDE, count), rng.permutation(y)])

    @override
    def layout(self, rng: np.random.Generator, gripper: str, num_objects: int, randomization: int) -> Layout:
        layout = super().layout(rng, gripper, num_objects, randomization)
        layout.positions[:, 2] += BELT_HEIGHT
        return layout

    @override
    def arrange(self, world: World, layout: Layout) -> None:
        super().arrange(world, layout)
        if world.belt is not None:
            # Towards the farther end first.
            world.belt.start(world.data, -float(layout.positions[:, 1].mean()))

    @override
    def failure(self, world: World, layout: Layout) -> str:
        # The other cubes move in any case.
        return self.shortfall(world, layout)

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        if holding(world, layout.target):
            return "did not lift it"
        position = world.object_position(layout.target)
        if world.belt is not None and not world.belt.carries(position):
            return "pushed it away or lost it"
        return "did not grasp it" if np.linalg.norm(position - world.tool_position) < HOVER else "did not reach it"

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        target = layout.target
        if holding(world, target):
            x, y, _ = world.tool_position
            return move(world, np.array([x, y, LIFT_HEIGHT + world.half_height(target) + 0.03]), jaw_yaw(world), 0.0)
        position = world.object_position(target)
        lead = self._velocity(world, target) * (_LAG + self._travel(world, position))
        lead[1] = np.clip(position[1] + lead[1], -BELT_REACH, BELT_REACH) - position[1]
        opening = 0.0 if between_jaws(world, target) else 1.0
        return funnel(world, position, cube_yaw(world, target), HOVER, opening, lead=lead)

    @staticmethod
    def _velocity(world: World, target: int) -> Array:
        """Return the velocity of the cube in m/s, shape (3,): that of the belt, unless it lies beside it."""
        carried = world.belt is not None and world.belt.carries(world.object_position(target))
        return world.belt.velocity(world.data) if carried and world.belt is not None else np.zeros(3)

    @staticmethod
    def _travel(world: World, position: Array) -> float:
        """Return the time in s that the tool needs to get above a position."""
        return float(np.linalg.norm(position[:2] - world.tool_position[:2])) / _TOOL_SPEED
