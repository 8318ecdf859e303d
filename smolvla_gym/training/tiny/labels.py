"""Labels of a frame from the ground truth of the simulation: object positions, and the weight of the frame."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.envs.backends.sim import SimBackend
from smolvla_gym.sim.scene import COLORS

_NEAR: Final = 0.02
"""Distance in m: another object that is closer than this, relative to the named one, makes a frame hard."""


def position_targets(backend: SimBackend) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the positions of all objects, and of the objects that the instruction names.

    Returns:
        For each colour, and last for the goal mark, the position in the tool frame and the place on the table, in m,
        shape (5 * (colours + 1),); NaN for objects that are not in the scene. And the same of the named object and of
        its destination: the second named object or the goal mark, shape (10,).
    """
    world, layout = backend.world, backend.layout
    targets = np.full((len(COLORS) + 1, 5), np.nan, np.float32)
    places = {list(COLORS).index(color): world.object_position(i) for i, color in enumerate(layout.colors)}
    if layout.goal is not None:
        places[len(COLORS)] = layout.goal
    for row, position in places.items():
        relative = world.tool_rotation.T @ (position - world.tool_position)
        targets[row] = [*relative, *position[:2]]
    names = [*COLORS]
    goal = names.index(layout.colors[layout.base]) if layout.base >= 0 else len(COLORS)
    return targets.reshape(-1), targets[[names.index(layout.colors[layout.target]), goal]].reshape(-1)


def frame_weight(backend: SimBackend, hard_weight: float) -> float:
    """Return ``hard_weight`` for a frame in which another object is about as near as the named one, otherwise 1."""
    world, layout = backend.world, backend.layout
    gaps = [float(np.linalg.norm(world.object_position(i) - world.tool_position)) for i in range(len(layout.colors))]
    held = world.grasped(layout.target)
    if held and layout.base < 0:
        return 1.0  # the destination does not depend on other objects
    focus = layout.base if held else layout.target
    others = min((gap for i, gap in enumerate(gaps) if i not in (layout.target, focus)), default=np.inf)
    if not held and layout.base >= 0:
        others = min(others, gaps[layout.base])
    return hard_weight if others < gaps[focus] + _NEAR else 1.0
