"""Normalisation statistics of states and actions, and the file ``meta/stats.json`` of a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.spec import ACTION, STATE
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import read_json_object, reading_as

Stats = dict[str, dict[str, NDArray[np.float32]]]
"""``{feature: {"mean" | "std" | "min" | "max": array}}``, the layout that LeRobot reads."""

MIN_STD: Final = 0.01
"""Floor of a standard deviation, in rad or gripper opening: a policy divides by it.

A joint that never moved while recording would otherwise amplify its noise.
"""

STATS: Final = "stats.json"
RECOMPUTE: Final = "compute it again with lerobot-edit-dataset --operation.type recompute_stats"

_MAX_BYTES: Final = 64 << 20


def compute_stats(states: NDArray[np.float32], actions: NDArray[np.float32]) -> Stats:
    """Return the statistics of states and actions for the normalising steps of a policy.

    Args:
        states: ``agent_pos`` of each frame: rad and gripper opening. Shape (N, 7).
        actions: The action of each frame, in the same units. Shape (N, 7).

    Returns:
        Statistics for ``"observation.state"`` and ``"action"``, each array of shape (7,).
    """
    return {STATE: _describe(states), ACTION: _describe(actions)}


def _describe(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    numbers = {
        "mean": flat.mean(axis=0),
        "std": np.maximum(flat.std(axis=0), MIN_STD),
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
    }
    return {name: value.astype(np.float32) for name, value in numbers.items()}


def floor_std(values: Iterable[float]) -> list[float]:
    """Return standard deviations raised to ``MIN_STD`` at least."""
    return [max(value, MIN_STD) for value in values]


def read_stats(meta: Path) -> dict[str, Any]:
    """Return the content of ``stats.json`` in a folder ``meta``.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: The file cannot be read.
    """
    path = meta / STATS
    with reading_as(DatasetError, path, f"Take another copy of it, or {RECOMPUTE}."):
        return read_json_object(path, _MAX_BYTES)
