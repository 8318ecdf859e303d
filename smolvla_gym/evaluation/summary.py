"""Figures of a condition from its outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from smolvla_gym.evaluation.conditions import Condition, Outcome
from smolvla_gym.evaluation.success import mcnemar, success_rate


def summarise(condition: Condition, outcomes: Sequence[Outcome], control_hz: float) -> dict[str, Any]:
    """Return the figures of a condition.

    ``success_rate`` with its 95 % interval ``success_low`` .. ``success_high``; of the episodes that succeeded the
    median ``time_to_success_s``; per episode the means ``waited_steps`` (before the first chunk), ``stalled_steps``
    (later, with an empty queue) and ``chunks``; and over all episodes the 99th percentile and the largest of the
    changes of a joint from one command to the next, at the borders of chunks and inside them; ``failures`` counts
    the failed episodes by their failure mode.
    """
    rate = success_rate([outcome.success for outcome in outcomes])
    steps = [outcome.steps for outcome in outcomes if outcome.success]
    statistics = [outcome.statistics for outcome in outcomes]
    border = [jump for s in statistics for jump in s.border_jumps]
    inner = [jump for s in statistics for jump in s.inner_jumps]
    values = {
        "success_rate": rate.rate,
        "success_low": rate.low,
        "success_high": rate.high,
        "time_to_success_s": float(np.median(steps)) / control_hz if steps else None,
        "waited_steps": float(np.mean([s.waited_steps for s in statistics])),
        "stalled_steps": float(np.mean([s.stalled_steps for s in statistics])),
        "chunks": float(np.mean([s.chunks for s in statistics])),
        **_spread("border_jump", border),
        **_spread("inner_jump", inner),
    }
    rounded = {name: round(value, 5) if value is not None else None for name, value in values.items()}
    failures = Counter(outcome.failure for outcome in outcomes if outcome.failure is not None)
    return {
        **condition.to_dict(),
        "episodes": rate.episodes,
        "successes": rate.successes,
        **rounded,
        "failures": dict(failures.most_common()),
    }


def compare(condition: Condition, first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Any]:
    """Return how two policies did on the same evaluation seeds.

    ``both``, ``first_only``, ``second_only`` and ``neither`` count the seeds by the policies that succeeded on them;
    ``p_value``, see :func:`smolvla_gym.evaluation.success.mcnemar`.
    """
    pairs = [(a.success, b.success) for a, b in zip(first, second, strict=True)]
    only = pairs.count((True, False)), pairs.count((False, True))
    return {
        **condition.to_dict(),
        "both": pairs.count((True, True)),
        "first_only": only[0],
        "second_only": only[1],
        "neither": pairs.count((False, False)),
        "p_value": round(mcnemar(*only), 5),
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    return {
        f"{name}_p99_rad": float(np.percentile(values, 99)) if values else None,
        f"{name}_max_rad": max(values, default=None),
    }
