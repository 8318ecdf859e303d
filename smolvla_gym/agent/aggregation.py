"""Aggregate the overlapping actions of two chunks: LeRobot's functions by name, and cross-fades."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import UnknownNameError

Array = NDArray[np.float32]

Aggregate = Callable[[Array, Array], Array]
"""Returns the actions to execute from those of the older and of the newer chunk, each of shape (n, 7), in time order.
It must be linear in both, because it is applied to rad and to normalized units."""

_BLENDED_ACTIONS: Final = 3
"""Number of blended actions in a short cross-fade: 0.1 s at 30 Hz."""


def latest_only(old: Array, new: Array) -> Array:
    """Return the newer actions."""
    return new


def weighted_average(old: Array, new: Array) -> Array:
    """Return 0.3 of the older plus 0.7 of the newer actions."""
    return _blend(old, new, 0.7)


def average(old: Array, new: Array) -> Array:
    """Return the mean of both."""
    return _blend(old, new, 0.5)


def conservative(old: Array, new: Array) -> Array:
    """Return 0.7 of the older plus 0.3 of the newer actions."""
    return _blend(old, new, 0.3)


def crossfade(old: Array, new: Array) -> Array:
    """Blend linearly from the older to the newer actions over the whole overlap, so that no action jumps."""
    share = np.arange(1, len(old) + 1, dtype=np.float32)[:, None] / np.float32(len(old) + 1)
    return old + share * (new - old)


def short_crossfade(old: Array, new: Array) -> Array:
    """Blend within a few actions, so that the arm does not jerk at the start of a chunk that continues the last one."""
    share: Array = np.arange(1, len(old) + 1, dtype=np.float32)[:, None] / np.float32(_BLENDED_ACTIONS + 1)
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
"""Aggregation functions by name. The first four and their weights are those of LeRobot's asynchronous inference."""


def get_aggregate(name: str) -> Aggregate:
    """Return an aggregation function by name.

    Raises:
        UnknownNameError: There is no function of this name.
    """
    try:
        return AGGREGATES[name]
    except (KeyError, TypeError):
        raise UnknownNameError("aggregate", name, AGGREGATES) from None
