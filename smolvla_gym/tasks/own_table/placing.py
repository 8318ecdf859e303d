"""Places of objects on a table of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from smolvla_gym.parol6 import Array

_GAPS: Final = (0.035, 0.028, 0.020, 0.012)
"""Distances in m between the circles around two objects, tried in this order: a finger fits between with the first."""

_STARTS: Final = 25
_TRIES: Final = 60
_BASE: Final = 0.085
"""Radius in m around the arm's axis in which nothing stands."""


def find_places(
    rng: np.random.Generator,
    area: tuple[tuple[float, float], tuple[float, float]],
    radii: Sequence[float],
    has_room: Callable[[Array, float], bool],
) -> Array | None:
    """Draw places for circles that do not overlap.

    Args:
        rng: Random generator.
        area: Ranges of x and y in m of the middles.
        radii: Radii of the circles in m.
        has_room: Returns whether a circle, by its middle in m, shape (2,), and radius, is clear of everything else.

    Returns:
        The middles in m, shape (n, 2); None where no places were found.
    """
    (x0, x1), (y0, y1) = area
    order = np.argsort(radii)[::-1]
    for gap in _GAPS:
        for _ in range(_STARTS):
            places = np.full((len(radii), 2), np.nan)
            for number, index in enumerate(order):
                done = order[:number]
                least = np.array(radii)[done] + radii[index] + gap
                for place in rng.uniform((x0, y0), (x1, y1), (_TRIES, 2)):
                    clear = (np.linalg.norm(places[done] - place, axis=1) >= least).all()
                    if clear and np.linalg.norm(place) > _BASE + radii[index] and has_room(place, radii[index] + 0.01):
                        places[index] = place
                        break
                else:
                    break
            if np.isfinite(places).all():
                return places
    return None
