"""Demonstrations held in memory, and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.reader import Recording
from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import ACTION_NAMES


@dataclass(frozen=True)
class Frames:
    """N frames of demonstrations, episode after episode; M of them have pictures.

    Consecutive pictures differ little and are most of the work and of the memory, so that not every frame needs one.
    What is learnt from begins at a frame that has.

    Attributes:
        images: Pictures by camera, uint8, shape (M, H, W, 3), already of the policy's size.
        states: ``agent_pos``, shape (N, 7).
        actions: The action given in each frame, shape (N, 7), in the env's units.
        instructions: The sentences that occur.
        instruction_ids: Index into ``instructions`` of each frame, shape (N,).
        segments: Number of the stretch that each frame belongs to, shape (N,). Frames of a stretch lie together, and
            no chunk reaches from one into the next: a new number for each episode, and after anything unrecorded.
        pictured: The frames that have pictures, ascending, shape (M,). ``None`` for all.
        targets: Auxiliary targets for the vision tower, shape (M, k), such as positions of objects relative to the
            camera; NaN where a value does not exist. ``None`` for none.
        referents: Auxiliary targets for the language model, shape (M, k): the same of what the sentence speaks of.
            ``None`` for none.
        weights: How often each frame with pictures is drawn, relative to the others, shape (M,). ``None`` for equally.
        paraphrases: For each of ``instructions`` the indices of those that mean the same, itself included: training
            draws one of them each time. ``None`` for itself alone.
    """

    images: Mapping[str, NDArray[np.uint8]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: Sequence[str]
    instruction_ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    pictured: NDArray[np.int64] | None = None
    targets: NDArray[np.float32] | None = None
    referents: NDArray[np.float32] | None = None
    weights: NDArray[np.float64] | None = None
    paraphrases: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        """Checks that everything has N or M rows."""
        count, width = len(self.states), len(ACTION_NAMES)
        if count == 0 or self.states.shape != (count, width):
            raise OptionError("states", self.states.shape, f"an array of shape (N, {width}) with N > 0")
        drawn = self.pictured
        if drawn is not None and (
            len(drawn) == 0 or drawn[0] < 0 or drawn[-1] >= count or (len(drawn) > 1 and np.diff(drawn).min() < 1)
        ):
            raise OptionError("pictured", drawn, f"ascending numbers of frames, from 0 to {count - 1}, at least one")
        pictures = count if drawn is None else len(drawn)
        columns: list[tuple[str, NDArray[np.generic] | None, int]] = [
            *((f"images[{name!r}]", value, pictures) for name, value in self.images.items()),
            ("actions", self.actions, count),
            ("instruction_ids", self.instruction_ids, count),
            ("segments", self.segments, count),
            ("targets", self.targets, pictures),
            ("referents", self.referents, pictures),
            ("weights", self.weights, pictures),
        ]
        for name, column, rows in columns:
            if column is not None and len(column) != rows:
                raise OptionError(name, f"{len(column)} rows", f"{rows} rows")
        if self.actions.shape != (count, width):
            raise OptionError("actions", self.actions.shape, f"an array of shape (N, {width})")
        if not (np.isfinite(self.states).all() and np.isfinite(self.actions).all()):
            raise OptionError("states and actions", "with NaN or inf", "finite numbers")
        if self.instruction_ids.min() < 0 or self.instruction_ids.max() >= len(self.instructions):
            raise OptionError("instruction_ids", int(self.instruction_ids.max()), f"below {len(self.instructions)}")
        if self.paraphrases is not None and len(self.paraphrases) != len(self.instructions):
            raise OptionError(
                "paraphrases", len(self.paraphrases), f"{len(self.instructions)}, as many as instructions"
            )
        stretches = 1 + np.count_nonzero(np.diff(self.segments))
        if stretches != len(np.unique(self.segments)):
            raise OptionError("segments", "a number that comes back", "the frames of each segment lying together")

    @classmethod
    def of(cls, recording: Recording, images: Mapping[str, NDArray[np.uint8]]) -> Frames:
        """Return all frames of a recorded dataset; each episode is a segment.

        Args:
            recording: The dataset.
            images: Images by camera, each of shape (N, H, W, 3), see :func:`smolvla_gym.data.decoding.decode_images`.
        """
        return cls(
            images, recording.states, recording.actions, recording.instructions, recording.instruction_ids,
            segments=np.repeat(np.arange(recording.episodes), recording.lengths).astype(np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        """Return N."""
        return len(self.states)

    @property
    def pictures(self) -> NDArray[np.int64]:
        """The frames that have pictures, ascending, shape (M,)."""
        return np.arange(len(self)) if self.pictured is None else self.pictured


def join(recordings: Sequence[Frames]) -> Frames:
    """Puts several recordings together, such as of several tasks; what one of them has besides, all have."""
    sizes = np.array([len(frames) for frames in recordings])
    offsets = np.cumsum(sizes) - sizes
    sentences = np.array([len(frames.instructions) for frames in recordings])
    words = np.cumsum(sentences) - sentences
    segments, count = [], 0
    for frames in recordings:
        segments.append(frames.segments - frames.segments.min() + count)
        count = int(segments[-1].max()) + 1
    first = recordings[0]
    targets = [frames.targets for frames in recordings if frames.targets is not None]
    referents = [frames.referents for frames in recordings if frames.referents is not None]
    weights = [frames.weights for frames in recordings if frames.weights is not None]
    return Frames(
        images={name: np.concatenate([frames.images[name] for frames in recordings]) for name in first.images},
        states=np.concatenate([frames.states for frames in recordings]),
        actions=np.concatenate([frames.actions for frames in recordings]),
        instructions=[sentence for frames in recordings for sentence in frames.instructions],
        instruction_ids=np.concatenate([f.instruction_ids + w for f, w in zip(recordings, words, strict=True)]),
        segments=np.concatenate(segments),
        pictured=np.concatenate([f.pictures + offset for f, offset in zip(recordings, offsets, strict=True)]),
        targets=np.concatenate(targets) if targets else None,
        referents=np.concatenate(referents) if referents else None,
        weights=np.concatenate(weights) if weights else None,
        paraphrases=[
            [int(w) + i for i in group]
            for f, w in zip(recordings, words, strict=True)
            for group in (f.paraphrases or [[i] for i in range(len(f.instructions))])
        ],
    )
