"""Auxiliary losses: parts of the network also predict positions, and learn them sooner than from the flow alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_WIDTH = 256


class Regression(nn.Module):
    """Small network from features to targets, which only training uses."""

    def __init__(self, width: int, targets: int, seed: int) -> None:
        """Make the network with random weights; the global random state is not changed.

        Args:
            width: Width of the features.
            targets: Number of targets.
            seed: Seed of the weights.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._layers = nn.Sequential(nn.Linear(width, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, targets))

    def forward(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error over the targets that exist; predicting the mean has an error of 1.

        Args:
            features: Shape (B, width).
            targets: Standardised targets, shape (B, k); NaN where a target does not exist.
        """
        exists = ~targets.isnan()
        errors: Tensor = (self._layers(features) - targets.nan_to_num()).square() * exists
        return errors.sum() / exists.sum().clamp_min(1)


def standardised(targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each target with mean 0 and standard deviation 1; NaN stays NaN.

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
