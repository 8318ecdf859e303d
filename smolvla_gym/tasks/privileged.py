"""Privileged observations: the ground truth of a scene, which no sensor of the arm measures.

``gym.make(..., privileged=True)`` adds ``observation["privileged"]``, a dictionary of float32 arrays in the world's
frame: its origin is the foot of the arm's base, on the table, and z points up. There are n = ``num_objects`` objects:

===================  ======  ==============================================================================
``object_position``  (n, 3)  centre of each object in m
``object_rotation``  (n, 4)  its orientation as a unit quaternion w, x, y, z with w >= 0
``object_velocity``  (n, 6)  its linear velocity in m/s and angular velocity in rad/s
``target``           (n,)    1 for the object that the instruction names, else 0
``base``             (n,)    1 for the second object that it names (``stack``), else 0
``goal_position``    (3,)    where the target has to go in m: the goal mark or the base; the target where neither is
``tool_position``    (3,)    tool centre point in m
``tool_rotation``    (4,)    orientation of the tool frame as a unit quaternion w, x, y, z with w >= 0
``holding``          (n,)    1 for an object in contact with both pads, else 0
===================  ======  ==============================================================================

Positions are clipped to 10 m and velocities to 100, which nothing on the table reaches.
"""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.world import World
from smolvla_gym.tasks.base import Layout

_FARTHEST: Final = 10.0  # m
_FASTEST: Final = 100.0  # m/s and rad/s


def privileged_space(num_objects: int) -> spaces.Dict:
    """Return the space of ``observation["privileged"]`` in a scene with a number of objects."""
    n = num_objects

    def box(limit: float, *shape: int, low: float | None = None) -> spaces.Box:
        return spaces.Box(-limit if low is None else low, limit, shape, np.float32)

    return spaces.Dict(
        {
            "object_position": box(_FARTHEST, n, 3),
            "object_rotation": box(1.0, n, 4),
            "object_velocity": box(_FASTEST, n, 6),
            "target": box(1.0, n, low=0.0),
            "base": box(1.0, n, low=0.0),
            "goal_position": box(_FARTHEST, 3),
            "tool_position": box(_FARTHEST, 3),
            "tool_rotation": box(1.0, 4),
            "holding": box(1.0, n, low=0.0),
        }
    )


def privileged_observation(world: World, layout: Layout) -> dict[str, NDArray[np.float32]]:
    """Return the ground truth of a scene.

    Args:
        world: The scene as it is now.
        layout: Layout of the episode.
    """
    indices = range(len(layout.colors))
    positions = np.array([world.object_position(i) for i in indices])
    goal = positions[layout.target]
    if layout.goal is not None:
        goal = np.asarray(layout.goal)
    elif layout.base >= 0:
        goal = positions[layout.base]
    return {
        "object_position": _clipped(positions, _FARTHEST),
        "object_rotation": np.array([_quaternion(world.object_rotation(i)) for i in indices], np.float32),
        "object_velocity": _clipped(np.array([world.object_velocity(i) for i in indices]), _FASTEST),
        "target": np.array([i == layout.target for i in indices], np.float32),
        "base": np.array([i == layout.base for i in indices], np.float32),
        "goal_position": _clipped(goal, _FARTHEST),
        "tool_position": _clipped(world.tool_position, _FARTHEST),
        "tool_rotation": _quaternion(world.tool_rotation).astype(np.float32),
        "holding": np.array([world.grasped(i) for i in indices], np.float32),
    }


def _clipped(values: Array, limit: float) -> NDArray[np.float32]:
    return np.clip(values, -limit, limit).astype(np.float32)


def _quaternion(rotation: Array) -> Array:
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return np.clip(-quaternion if quaternion[0] < 0.0 else quaternion, -1.0, 1.0)
