"""Draw batches from demonstrations: which frames, and which actions make up their chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import OptionError


class Windows:
    """Action chunks that start at any frame and stay inside its segment."""

    def __init__(self, segments: NDArray[np.int64], chunk_size: int) -> None:
        """Find the end of every segment.

        Args:
            segments: Shape (N,), see :class:`smolvla_gym.training.tiny.frames.Frames`.
            chunk_size: Actions in a chunk.
        """
        ends = np.append(np.flatnonzero(np.diff(segments)), len(segments) - 1)
        self._last = ends[np.searchsorted(ends, np.arange(len(segments)))]
        self._offsets = np.arange(chunk_size)

    def rows(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the frames whose actions are the chunks.

        Args:
            frames: First frames of the chunks, shape (B,).

        Returns:
            Frame numbers, shape (B, chunk_size), which stay at the last frame of the segment after its end; and
            the padding mask, True after the end of the segment, shape (B, chunk_size).
        """
        rows = frames[:, None] + self._offsets
        last = self._last[frames][:, None]
        return np.minimum(rows, last), rows > last


class Sampler:
    """Draw frames with replacement, each in proportion to its weight."""

    def __init__(self, count: int, weights: NDArray[np.float64] | None, seed: int) -> None:
        """Prepare the draws.

        Args:
            count: Number of frames.
            weights: Weights of the frames, shape (count,), not negative; None: equal weights.
            seed: Seed of the draws.

        Raises:
            OptionError: A weight is negative or not finite, or all are zero.
        """
        self._random = np.random.default_rng(seed)
        values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        if not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
            raise OptionError("weights", "negative, infinite or all zero", "numbers from 0, at least one above it")
        self._cumulative = np.cumsum(values) / values.sum()

    @property
    def state(self) -> Any:
        """State of the random generator; may be set."""
        return self._random.bit_generator.state

    @state.setter
    def state(self, value: Any) -> None:
        self._random.bit_generator.state = value

    def draw(self, count: int) -> NDArray[np.int64]:
        """Return frame numbers, shape (count,)."""
        rows = np.searchsorted(self._cumulative, self._random.random(count), side="right")
        return np.minimum(rows, len(self._cumulative) - 1)
