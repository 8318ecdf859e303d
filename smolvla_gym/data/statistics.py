"""Normalisation statistics of a data set."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Stats = dict[str, dict[str, NDArray[np.float32]]]
"""``{feature: {"mean" | "std" | "min" | "max": array}}``, the layout LeRobot reads."""

MIN_STD: Final = 0.01
"""Floor of a standard deviation, in rad or gripper opening: a joint that never moved must not amplify its noise."""


def _describe(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    numbers = {
        "mean": flat.mean(axis=0),
        "std": np.maximum(flat.std(axis=0), MIN_STD),
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
    }
    return {name: value.astype(np.float32) for name, value in numbers.items()}


def compute_stats(states: NDArray[np.float32], actions: NDArray[np.float32]) -> Stats:
    """Describes states and actions for the normalising steps of a policy.

    Args:
        states: ``agent_pos`` of each frame: rad and gripper opening. Shape (N, 7).
        actions: The action of each frame, in the same units. Shape (N, 7).

    Returns:
        Statistics for ``"observation.state"`` and ``"action"``, each array of shape (7,).
    """
    return {"observation.state": _describe(states), "action": _describe(actions)}
