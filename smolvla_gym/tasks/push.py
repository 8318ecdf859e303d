"""Task: push the named puck onto the white mark."""

from __future__ import annotations

from typing import ClassVar, override

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.scene import PUCK, PUCK_RADIUS
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout, Task
from smolvla_gym.tasks.expert import funnel, jaw_yaw, move, yaw_error

_TOLERANCE = 0.020
_AT_REST = 0.02
_TOOL_HEIGHT = 0.014
_TRAVEL_HEIGHT = 0.050
# The jaws push as a fork: two contacts, far apart, keep the puck from rolling off to the side.
_FORK = 0.75
_CONTACT = 0.022
_BEHIND = PUCK_RADIUS + 0.020
_STRIDE = 0.018


class Push(Task):
    """The named puck has to come to rest with its centre within 2 cm of the mark's, without being lifted."""

    name = "push"
    instruction_templates: ClassVar[tuple[str, ...]] = (
        "push the {color} puck onto the white circle",
        "slide the {color} puck to the white circle",
        "push the {color} puck to the goal",
        "shove the {color} puck into the white circle",
    )
    unseen_instruction_templates: ClassVar[tuple[str, ...]] = (
        "nudge the {color} puck into the white circle",
        "the {color} puck belongs on the white circle",
        "get the {color} puck to the white circle",
    )
    kind = PUCK
    has_goal = True
    min_distance: ClassVar[float] = 0.10

    @override
    def allowed(self, places: Array) -> bool:
        # The tool has to fit behind the puck on every side.
        return bool(np.all(np.linalg.norm(places, axis=1) > 0.15))

    @staticmethod
    def _way(world: World, layout: Layout) -> Array:
        assert layout.goal is not None  # noqa: S101 - narrows a type
        return np.asarray(layout.goal[:2] - world.object_position(layout.target)[:2])

    @override
    def achieved(self, world: World, layout: Layout) -> bool:
        puck = world.object_position(layout.target)
        on_table = abs(puck[2] - world.half_height(layout.target)) < 0.004
        near = float(np.linalg.norm(self._way(world, layout))) < _TOLERANCE
        return on_table and near and world.object_speed(layout.target) < _AT_REST

    @override
    def progress(self, world: World, layout: Layout) -> float:
        puck = world.object_position(layout.target)
        reaching = 1.0 - np.tanh(6.0 * float(np.linalg.norm(world.tool_position - puck)))
        left = float(np.linalg.norm(self._way(world, layout)))
        return float(0.2 * reaching + 0.8 * (1.0 - np.tanh(6.0 * max(left - _TOLERANCE, 0.0))))

    @override
    def shortfall(self, world: World, layout: Layout) -> str:
        way = world.object_position(layout.target) - layout.positions[layout.target]
        return "missed the mark" if np.linalg.norm(way) > 0.005 else "did not push it"

    @override
    def expert(self, world: World, layout: Layout) -> Array:
        puck, tool = world.object_position(layout.target)[:2], world.tool_position
        way = self._way(world, layout)
        left = float(np.linalg.norm(way))
        forward = way / max(left, 1e-9)
        yaw = float(np.arctan2(forward[1], forward[0]) + np.pi / 2)
        relative = tool[:2] - puck
        if left < 0.4 * _TOLERANCE:
            back = relative / max(float(np.linalg.norm(relative)), 1e-9)
            return move(world, np.array([*(tool[:2] + 0.01 * back), _TRAVEL_HEIGHT]), jaw_yaw(world), _FORK)
        along = float(relative @ forward)
        across = float(np.linalg.norm(relative - along * forward))
        behind = -_BEHIND - 0.01 < along < -0.6 * _CONTACT and across < 0.012
        if behind and yaw_error(world, yaw) < 0.35 and tool[2] < _TOOL_HEIGHT + 0.012:
            # Behind it and low: the puck lies in the fork of the two jaws and follows them.
            ahead = puck - forward * (_CONTACT - min(left, _STRIDE))
            return move(world, np.array([*ahead, _TOOL_HEIGHT]), yaw, _FORK)
        start = puck - forward * _BEHIND
        return funnel(world, np.array([*start, _TOOL_HEIGHT]), yaw, _TRAVEL_HEIGHT, _FORK)
