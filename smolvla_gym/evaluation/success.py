"""Success rate of episodes, its confidence interval, and the difference of two rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_Z: Final = 1.959964
"""Standard deviations of the normal distribution that hold 95 %."""


class SuccessRate(NamedTuple):
    """Success rate with its 95 % Wilson interval ``low`` .. ``high``, all as fractions of ``episodes``."""

    successes: int
    episodes: int
    rate: float
    low: float
    high: float


def success_rate(successes: Sequence[bool]) -> SuccessRate:
    """Return the success rate of episodes, at least one.

    Example:
        >>> success_rate([True] * 93 + [False] * 7).rate
        0.93
    """
    count, episodes = sum(successes), len(successes)
    return SuccessRate(count, episodes, count / episodes, *wilson_interval(count, episodes))


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a success rate.

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
    """Return the p-value of McNemar's exact, two-sided test of two policies on the same seeds.

    It is the probability that chance alone makes the policies differ at least that much. Seeds on which both succeed
    or both fail carry no information.

    Args:
        first_only: Seeds on which only the first policy succeeds.
        second_only: Seeds on which only the second policy succeeds.

    Example:
        >>> round(mcnemar(8, 1), 3)
        0.039
    """
    differing = first_only + second_only
    tail = sum(math.comb(differing, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, float(2 * tail / 2**differing))
