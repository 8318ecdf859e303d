"""Demonstrations held in memory, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import ACTION_NAMES


@dataclass(frozen=True)
class Frames:
    """N frames of demonstrations, episode after episode.

    Attributes:
        images: Pictures by camera, uint8, shape (N, H, W, 3), already of the policy's size.
        states: ``agent_pos``, shape (N, 7).
        actions: The action given in each frame, shape (N, 7), in the env's units.
        instructions: The sentences that occur.
        instruction_ids: Index into ``instructions`` of each frame, shape (N,).
        segments: Number of the stretch that each frame belongs to, shape (N,). Frames of a stretch lie together, and
            no chunk reaches from one into the next: a new number for each episode, and after anything unrecorded.
        targets: Auxiliary targets for the vision tower, shape (N, k), such as positions of objects relative to the
            camera; NaN where a value does not exist. ``None`` for none.
        weights: How often each frame is drawn, relative to the others, shape (N,). ``None`` for equally.
    """

    images: Mapping[str, NDArray[np.uint8]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: Sequence[str]
    instruction_ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    targets: NDArray[np.float32] | None = None
    weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Checks that everything has N rows."""
        count, width = len(self.states), len(ACTION_NAMES)
        columns: dict[str, NDArray[np.generic] | None] = {
            **{f"images[{name!r}]": value for name, value in self.images.items()},
            "actions": self.actions,
            "instruction_ids": self.instruction_ids,
            "segments": self.segments,
            "targets": self.targets,
            "weights": self.weights,
        }
        if count == 0 or self.states.shape != (count, width):
            raise OptionError("states", self.states.shape, f"an array of shape (N, {width}) with N > 0")
        for name, column in columns.items():
            if column is not None and len(column) != count:
                raise OptionError(name, f"{len(column)} rows", f"{count} rows, as many as states")
        if self.actions.shape != (count, width):
            raise OptionError("actions", self.actions.shape, f"an array of shape (N, {width})")
        if not (np.isfinite(self.states).all() and np.isfinite(self.actions).all()):
            raise OptionError("states and actions", "with NaN or inf", "finite numbers")
        if self.instruction_ids.min() < 0 or self.instruction_ids.max() >= len(self.instructions):
            raise OptionError("instruction_ids", int(self.instruction_ids.max()), f"below {len(self.instructions)}")
        stretches = 1 + np.count_nonzero(np.diff(self.segments))
        if stretches != len(np.unique(self.segments)):
            raise OptionError("segments", "a number that comes back", "the frames of each segment lying together")

    def __len__(self) -> int:
        """Returns N."""
        return len(self.states)


class Windows:
    """Chunks of actions that begin at any frame and stay inside its segment."""

    def __init__(self, segments: NDArray[np.int64], chunk_size: int) -> None:
        """Finds the end of every segment.

        Args:
            segments: Shape (N,), see :class:`Frames`.
            chunk_size: Actions a chunk.
        """
        ends = np.append(np.flatnonzero(np.diff(segments)), len(segments) - 1)
        self._last = ends[np.searchsorted(ends, np.arange(len(segments)))]
        self._offsets = np.arange(chunk_size)

    def rows(self, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Returns which frames' actions make up the chunks.

        Args:
            frames: Where the chunks begin, shape (B,).

        Returns:
            Frame numbers of shape (B, chunk_size), which stay on the segment's last frame once they reach it, and
            True where they do: padding, not to be learnt from.
        """
        rows = frames[:, None] + self._offsets
        last = self._last[frames][:, None]
        return np.minimum(rows, last), rows > last


class Sampler:
    """Draws frames with replacement, each in proportion to its weight."""

    def __init__(self, count: int, weights: NDArray[np.float64] | None, seed: int) -> None:
        """Prepares the draw.

        Args:
            count: Number of frames.
            weights: Shape (count,), not negative; ``None`` for equal ones.
            seed: Seed of the draws.

        Raises:
            OptionError: A weight is negative or not finite, or all are zero.
        """
        self._random = np.random.default_rng(seed)
        values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        if not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
            raise OptionError("weights", "negative, infinite or all zero", "numbers from 0, at least one above it")
        self._cumulative = np.cumsum(values) / values.sum()

    def draw(self, count: int) -> NDArray[np.int64]:
        """Returns frame numbers, shape (count,)."""
        rows = np.searchsorted(self._cumulative, self._random.random(count), side="right")
        return np.minimum(rows, len(self._cumulative) - 1)
