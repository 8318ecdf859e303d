"""Task: push the named object of one's own onto the white mark."""

from __future__ import annotations

from typing import ClassVar, Final, override

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move, yaw_error
from smolvla_gym.tasks.own_table.grasps import JAWS
from smolvla_gym.tasks.own_table.handling import underside
from smolvla_gym.tasks.own_table.task import OwnTask
from smolvla_gym.tasks.push import Push

_TOLERANCE: Final = 0.020
_AT_REST: Final = 0.02
_STRIDE: Final = 0.018
_BEHIND: Final = 0.020
"""Distance in m between the fingers and the object from which they go down behind it."""

_TOOL_HEIGHT: Final = 0.0135
_TRAVEL: Final = 0.03
_ACROSS: Final = 0.006
"""Distance in m of the tool from the line of the push up to which it pushes."""

_FINGERS: Final = 0.03
"""Half of the width in m of the fork of the jaws."""

_FARTHEST: Final = 0.11
"""Greatest distance in m of the mark from the object, where there is room."""

_FLAT: Final = 0.012
_LOWEST: Final = 0.010
_SLENDER: Final = 2.5
"""Height of an object as a multiple of its base, above which it would fall over."""


class OwnPush(OwnTask):
    """The named object has to come to rest with its middle within 2 cm of the mark's, without being lifted."""

    name: ClassVar[str] = Push.name
    instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} puck", "{object}") for template in Push.instruction_templates
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = tuple(
        template.replace("{color} puck", "{object}") for template in Push.unseen_instruction_templates
    )
    has_goal = True

    def __init__(self, table: OwnTable) -> None:
        """Keep a table.

        Args:
            table: The table.

        Raises:
            OptionError: It has no object with a flat base.
        """
        super().__init__(table)
        if not any(self.suits(i) for i in range(len(table.objects))):
            raise OptionError("table", table.source, "a table with an object that has a flat base, for the task push")

    @override
    def suits(self, index: int) -> bool:
        thing = self.table.objects[index]
        height = 2.0 * thing.half_height
        return thing.flat_base >= _FLAT and _LOWEST <= height <= _SLENDER * thing.flat_base

    @override
    def margin(self, index: int) -> float:
        # The tool has to fit behind the object on every side.
        return 0.03

    @override
    def is_open(self, places: Array, radii: Array, target: int) -> bool:
        # Nothing stands on the way of the object and of the fingers behind it.
        way = places[-1] - places[target]
        length = max(float(np.linalg.norm(way)), 1e-9)
        forward = way / length
        for index, radius in enumerate(radii):
            if index == target:
                continue
            offset = places[index] - places[target]
            along, across = float(offset @ forward), abs(float(offset @ [-forward[1], forward[0]]))
            wide = max(float(radii[target]), _FINGERS) + radius + 0.01
            if -radii[target] - 0.06 - radius < along < length + radii[target] + radius and across < wide:
                return False
        # An object that turns on the way drifts to the side: the nearer the mark, the less.
        return bool(0.5 * radii[target] + 0.04 < length < _FARTHEST)

    @staticmethod
    def _way(world: World, layout: Layout) -> Array:
        assert layout.goal is not None  # noqa: S101 - narrows a type
        return np.asarray(layout.goal[:2] - world.object_position(layout.target)[:2])

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        on_table = abs(underside(world, layout.target)) < 0.004
        near = float(np.linalg.norm(self._way(world, layout))) < _TOLERANCE
        return on_table and near and world.object_speed(layout.target) < _AT_REST

    @override
    def progress(self, world: World, layout: Layout) -> float:
        place = world.object_position(layout.target)
        reaching = 1.0 - np.tanh(6.0 * float(np.linalg.norm(world.tool_position - place)))
        left = float(np.linalg.norm(self._way(world, layout)))
        return float(0.2 * reaching + 0.8 * (1.0 - np.tanh(6.0 * max(left - _TOLERANCE, 0.0))))

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        way = world.object_position(layout.target) - layout.positions[layout.target]
        return "missed the mark" if np.linalg.norm(way) > 0.005 else "did not push it"

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        target = layout.target
        place, tool = world.object_position(target)[:2], world.tool_position
        way = self._way(world, layout)
        left = float(np.linalg.norm(way))
        forward = way / max(left, 1e-9)
        yaw = float(np.arctan2(forward[1], forward[0]) + np.pi / 2)
        relative = tool[:2] - place
        height = world.table_height + _TOOL_HEIGHT
        travel = max(0.05, self.handling.highest(world, -1) + _TRAVEL - height)
        opening, contact = self._fork(world, target, forward)
        if left < 0.4 * _TOLERANCE:
            back = relative / max(float(np.linalg.norm(relative)), 1e-9)
            return move(world, np.array([*(tool[:2] + 0.01 * back), height + travel]), jaw_yaw(world), opening)
        along = float(relative @ forward)
        across = float(np.linalg.norm(relative - along * forward))
        behind = -contact - _BEHIND - 0.01 < along < -0.6 * contact and across < _ACROSS
        if behind and yaw_error(world, yaw) < 0.35 and tool[2] < height + 0.012:
            # Behind it and low: the object lies before the fork of the two jaws.
            ahead = place - forward * (contact - min(left, _STRIDE))
            return move(world, np.array([*ahead, height]), yaw, opening)
        start = place - forward * (contact + _BEHIND)
        return funnel(world, np.array([*start, height]), yaw, travel, opening)

    def _fork(self, world: World, index: int, forward: Array) -> tuple[float, float]:
        """Return the opening 0..1 of jaws that push an object, and the tool's distance from its middle at contact in m.

        Two contacts, far apart, keep the object from turning.
        """
        jaws = JAWS[world.gripper.name]
        points = self.handling.solid(world, index) @ world.object_rotation(index).T
        points = points[points[:, 2] < points[:, 2].min() + jaws.pad]
        along, across = points[:, :2] @ forward, points[:, :2] @ [-forward[1], forward[0]]
        gap = float(np.clip(0.6 * 2.0 * min(-across.min(), across.max()), 0.0, 0.75 * jaws.widest))
        touched = (np.abs(across) >= 0.5 * gap - 1e-3) & (np.abs(across) <= 0.5 * gap + jaws.thickness)
        back = -float(along[touched].min()) if touched.any() else -float(along.min())
        return gap / jaws.widest, back + jaws.half_width
