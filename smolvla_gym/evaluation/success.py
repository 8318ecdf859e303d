"""How sure a success rate is, and the difference of two."""

from __future__ import annotations

import math

_Z = 1.959964
"""Standard deviations of the normal distribution that hold 95 %."""


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Returns the 95 % interval of a success rate by Wilson's score.

    Args:
        successes: Episodes that succeeded.
        episodes: All episodes, at least one.

    Example:
        >>> low, high = wilson_interval(93, 100)
        >>> round(low, 3), round(high, 3)
        (0.863, 0.966)
    """
    rate, square = successes / episodes, _Z**2 / episodes
    middle = (rate + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(rate * (1 - rate) / episodes + square / (4 * episodes))
    # Exactly 0 and 1 where rounding would miss them.
    return (max(0.0, middle - half) if successes else 0.0), (min(1.0, middle + half) if successes < episodes else 1.0)


def mcnemar(first_only: int, second_only: int) -> float:
    """Returns how likely chance alone makes two policies differ at least that much on the same seeds.

    The exact, two-sided test of McNemar: only seeds that one of them solves and the other one does not say anything.

    Args:
        first_only: Seeds that only the first one solves.
        second_only: Seeds that only the second one solves.

    Example:
        >>> round(mcnemar(8, 1), 3)
        0.039
    """
    differing = first_only + second_only
    tail = sum(math.comb(differing, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, float(2 * tail / 2**differing))
