"""How the actions of two chunks for the same moments become one: the named functions of LeRobot, and a cross-fade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import UnknownNameError

Array = NDArray[np.float32]

Aggregate = Callable[[Array, Array], Array]
"""From the older chunk's actions and the newer one's, each of shape (n, 7) and in the order of time, to those to
execute. It has to be linear in both: it is applied to actions in any unit."""

_SEAM: Final = 3
"""Actions of a short cross-fade that are of both chunks: 0.1 s at 30 Hz."""


def latest_only(old: Array, new: Array) -> Array:
    """Takes the newer ones."""
    return new


def weighted_average(old: Array, new: Array) -> Array:
    """Takes 0.3 of the older and 0.7 of the newer ones."""
    return _blend(old, new, 0.7)


def average(old: Array, new: Array) -> Array:
    """Takes half of each."""
    return _blend(old, new, 0.5)


def conservative(old: Array, new: Array) -> Array:
    """Takes 0.7 of the older and 0.3 of the newer ones."""
    return _blend(old, new, 0.3)


def crossfade(old: Array, new: Array) -> Array:
    """Goes over from the older to the newer ones evenly, so that no action jumps."""
    share = np.arange(1, len(old) + 1, dtype=np.float32)[:, None] / np.float32(len(old) + 1)
    return old + share * (new - old)


def short_crossfade(old: Array, new: Array) -> Array:
    """Goes over within a few actions: the arm does not jerk where a chunk that nearly continues the last one begins."""
    share: Array = np.arange(1, len(old) + 1, dtype=np.float32)[:, None] / np.float32(_SEAM + 1)
    np.minimum(share, 1.0, out=share)
    return old + share * (new - old)


def _blend(old: Array, new: Array, share: float) -> Array:
    return old + np.float32(share) * (new - old)


AGGREGATES: Final[dict[str, Aggregate]] = {
    "latest_only": latest_only,
    "weighted_average": weighted_average,
    "average": average,
    "conservative": conservative,
    "crossfade": crossfade,
    "short_crossfade": short_crossfade,
}
"""The functions by name. The first four and their weights are those of LeRobot's asynchronous inference."""


def get_aggregate(name: str) -> Aggregate:
    """Returns a function by name.

    Raises:
        UnknownNameError: There is none of this name.
    """
    try:
        return AGGREGATES[name]
    except (KeyError, TypeError):
        raise UnknownNameError("aggregate", name, AGGREGATES) from None
