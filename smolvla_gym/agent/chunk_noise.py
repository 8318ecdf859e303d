"""Sample the noise that chunks are computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class TimeAlignedNoise:
    """Noise that is aligned in time: a new chunk reuses the noise of the actions that are planned already.

    The noise decides between several good trajectories to the same goal. With fresh noise the next chunk might choose
    another trajectory than the one being executed. The noise of each single chunk is standard normal in any case.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Begin without noise.

        Args:
            shape: Length and width of a chunk's noise.
        """
        self._shape = shape
        self._noise: Array = np.zeros((0, shape[1]), np.float32)
        self._start = 0

    def draw(self, rng: np.random.Generator, moment: int, planned: int) -> Array:
        """Return the noise of a chunk.

        Args:
            rng: Source of new noise.
            moment: Moment of the chunk's first action, in executed actions. It never decreases.
            planned: Number of actions planned from this moment on. With 0 the noise is all new, so that a failed chunk
                is not repeated with the same noise.
        """
        # Always draw a whole chunk, so that later draws do not depend on the moments of earlier ones.
        noise: Array = rng.standard_normal(self._shape, dtype=np.float32)
        known = self._noise[moment - self._start :][:planned]
        noise[: len(known)] = known
        self._noise, self._start = noise, moment
        return noise.copy()
