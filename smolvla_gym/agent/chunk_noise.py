"""The noise that chunks are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class TimeAlignedNoise:
    """Noise that belongs to moments: a chunk makes what is planned already of the noise that the plan was made of.

    There is more than one way to a cube, and the noise has a part in the choice. Were it drawn anew, the next chunk
    might take another way than the one that is being executed, and the arm would change its mind in the middle. Each
    chunk's noise by itself is standard normal all the same.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Begins without any.

        Args:
            shape: Of a chunk's noise: its length and its width.
        """
        self._shape = shape
        self._noise: Array = np.zeros((0, shape[1]), np.float32)
        self._from = 0

    def draw(self, rng: np.random.Generator, moment: int, planned: int) -> Array:
        """Returns the noise of a chunk.

        Args:
            rng: Draws what is new.
            moment: Of the chunk's first action; not before those of earlier chunks.
            planned: How many actions are planned from there on. Where none is there is nothing to agree with, and a
                chunk that failed is not tried with the same noise again.
        """
        # A whole chunk each time: what a generator gives later does not depend on when it was asked.
        noise: Array = rng.standard_normal(self._shape, dtype=np.float32)
        known = self._noise[moment - self._from :][:planned]
        noise[: len(known)] = known
        self._noise, self._from = noise, moment
        return noise.copy()
