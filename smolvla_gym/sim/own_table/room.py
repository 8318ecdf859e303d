"""Room on a table of one's own: where objects and distractors can stand."""

from __future__ import annotations

import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.description import OwnTable


def has_room(table: OwnTable, place: Array, radius: float) -> bool:
    """Return whether a circle lies on the table's top, clear of the obstacles.

    Args:
        table: The table.
        place: Its middle, x and y in m, shape (2,).
        radius: Its radius in m.
    """
    offset = np.abs(place - np.array(table.center))
    if (offset > 0.5 * np.array(table.size) - radius).any():
        return False
    for obstacle in table.obstacles:
        low, high = np.array(obstacle.corners)[:, :2]
        nearest = np.clip(place, low, high)
        if np.linalg.norm(place - nearest) < radius:
            return False
    return True
