"""Functions of the tasks in which a cube is picked up."""

from __future__ import annotations

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout
from smolvla_gym.tasks.expert import funnel, nearest_yaw, square_yaw

HOVER = 0.07
"""Height in m above a cube's centre at which the open gripper travels."""

_ALIGNED = 0.007
_NEAR = 0.02
_SHIFTED, _AT_IT = 0.01, 0.06


def cube_yaw(world: World, index: int) -> float:
    """Return the yaw in rad of the side of a cube that the jaws grip with the smallest turn of J6."""
    x, y, _ = world.object_rotation(index)[:, 0]
    return nearest_yaw(square_yaw(world.object_position(index)), float(np.arctan2(y, x)), np.pi / 2)


def between_jaws(world: World, index: int) -> bool:
    """Return whether a cube's centre is where the pads would close on it."""
    gap = world.object_position(index) - world.tool_position
    if gap @ gap > _NEAR**2:  # the usual case, and cheap to check
        return False
    offset = world.tool_rotation.T @ gap
    approach = np.array(world.gripper.approach)
    depth = float(offset @ approach)
    sideways = offset - depth * approach
    return abs(depth) < 0.009 and float(np.linalg.norm(sideways)) < _ALIGNED


def holding(world: World, index: int) -> bool:
    """Return whether a cube is held: between the pads and in contact with both."""
    return between_jaws(world, index) and world.grasped(index)


def reaching(world: World, index: int) -> float:
    """Return how near the tool is to a cube, 0..1."""
    distance = np.linalg.norm(world.tool_position - world.object_position(index))
    return float(1.0 - np.tanh(6.0 * distance))


def fetch(world: World, index: int) -> Array:
    """Move to a cube and close the gripper on it; an expert does this until :func:`holding`."""
    position, yaw = world.object_position(index), cube_yaw(world, index)
    grasp = np.array([position[0], position[1], max(position[2], world.half_height(index))])
    return funnel(world, grasp, yaw, HOVER, 0.0 if between_jaws(world, index) else 1.0)


def grasp_shortfall(world: World, layout: Layout) -> str:
    """Return the failure mode of an episode in which the named cube is not held, a few words."""
    position = world.object_position(layout.target)
    if np.linalg.norm(position - layout.positions[layout.target]) > _SHIFTED:
        return "pushed it away or lost it"
    return "did not grasp it" if np.linalg.norm(position - world.tool_position) < _AT_IT else "did not reach it"
