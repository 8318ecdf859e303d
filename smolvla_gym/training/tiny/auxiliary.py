"""Auxiliary targets: what a part of the network is asked for besides the flow, so that it learns to tell it sooner."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_WIDTH = 256


class Regression(nn.Module):
    """A small network from features to targets; it is thrown away after the run."""

    def __init__(self, width: int, targets: int, seed: int) -> None:
        """Makes it with random weights; the global random state is left as it was.

        Args:
            width: Of the features.
            targets: How many there are.
            seed: Seed of the weights.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._layers = nn.Sequential(nn.Linear(width, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, targets))

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean squared error over the targets that exist; 1 is as good as always guessing the mean.

        Args:
            features: Shape (B, width).
            targets: Standardised, shape (B, k); NaN where one does not exist.
        """
        exists = ~targets.isnan()
        errors: Tensor = (self._layers(features) - targets.nan_to_num()).square() * exists
        return errors.sum() / exists.sum().clamp_min(1)


def standardised(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shifts and scales each target to mean 0 and deviation 1; NaN stays.

    Args:
        targets: Shape (M, k).

    Returns:
        The same shape.
    """
    exists = np.isfinite(targets)
    count = np.maximum(exists.sum(axis=0), 1)
    mean = np.where(exists, targets, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(exists, targets - mean, 0) ** 2).sum(axis=0) / count)
    return np.asarray((targets - mean) / np.maximum(spread, 1e-6), dtype=np.float32)
