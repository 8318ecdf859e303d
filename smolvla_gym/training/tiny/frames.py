"""Demonstrations in memory."""

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
    """N frames of demonstrations, episode after episode; M of them have images.

    Consecutive images differ little and take most of the time and the memory, so that not every frame has one.
    Training samples start at frames with images.

    Attributes:
        images: Images by camera, uint8, shape (M, H, W, 3), in the policy's size.
        states: ``agent_pos``, shape (N, 7).
        actions: The action in each frame, shape (N, 7), in the env's units.
        instructions: The instructions.
        instruction_ids: Index into ``instructions`` of each frame, shape (N,).
        segments: Number of the segment of each frame, shape (N,). The frames of a segment are consecutive, and chunks
            do not reach into the next segment. Each episode has its own segments, and a new segment starts after
            steps that were not recorded.
        image_frames: The frames with images, ascending, shape (M,). None: all frames.
        targets: Auxiliary targets for the vision tower, shape (M, k), such as positions of objects relative to the
            tool; NaN where a value does not exist. None: no targets.
        referents: Auxiliary targets for the language model, shape (M, k): positions of the objects that the
            instruction names. None: no targets.
        weights: Relative frequency with which each frame with images is drawn, shape (M,). None: equal weights.
        commanded: Action commanded in each frame, where that differs from the action, which is the label: such as
            by a policy whose states the expert labels. Shape (N, 7). None: the actions.
        committed: For each frame with images, for how many steps from it on the commanded action differs from the
            labels, shape (M,): training gives at least these actions, and learns the ones after them. None: 0.
        paraphrases: For each of ``instructions`` the indices of its paraphrases, including itself: training draws one
            of them each time. None: no paraphrases.
    """

    images: Mapping[str, NDArray[np.uint8]]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: Sequence[str]
    instruction_ids: NDArray[np.int64]
    segments: NDArray[np.int64]
    image_frames: NDArray[np.int64] | None = None
    targets: NDArray[np.float32] | None = None
    referents: NDArray[np.float32] | None = None
    weights: NDArray[np.float64] | None = None
    commanded: NDArray[np.float32] | None = None
    committed: NDArray[np.int64] | None = None
    paraphrases: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        """Check that all arrays have N or M rows.

        Raises:
            OptionError: An array has another shape, or values that are not allowed.
        """
        count, width = len(self.states), len(ACTION_NAMES)
        if count == 0 or self.states.shape != (count, width):
            raise OptionError("states", self.states.shape, f"an array of shape (N, {width}) with N > 0")
        chosen = self.image_frames
        if chosen is not None and (
            len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= count or (len(chosen) > 1 and np.diff(chosen).min() < 1)
        ):
            raise OptionError(
                "image_frames", chosen, f"ascending numbers of frames, from 0 to {count - 1}, at least one"
            )
        with_images = count if chosen is None else len(chosen)
        columns: list[tuple[str, NDArray[np.generic] | None, int]] = [
            *((f"images[{name!r}]", value, with_images) for name, value in self.images.items()),
            ("actions", self.actions, count),
            ("instruction_ids", self.instruction_ids, count),
            ("segments", self.segments, count),
            ("targets", self.targets, with_images),
            ("referents", self.referents, with_images),
            ("weights", self.weights, with_images),
            ("commanded", self.commanded, count),
            ("committed", self.committed, with_images),
        ]
        for name, column, rows in columns:
            if column is not None and len(column) != rows:
                raise OptionError(name, f"{len(column)} rows", f"{rows} rows")
        if self.actions.shape != (count, width):
            raise OptionError("actions", self.actions.shape, f"an array of shape (N, {width})")
        if self.commanded is not None and (
            self.commanded.shape != (count, width) or not np.isfinite(self.commanded).all()
        ):
            raise OptionError("commanded", self.commanded.shape, f"an array of shape (N, {width}) of finite numbers")
        if self.committed is not None and self.committed.min() < 0:
            raise OptionError("committed", int(self.committed.min()), "numbers from 0")
        if not (np.isfinite(self.states).all() and np.isfinite(self.actions).all()):
            raise OptionError("states and actions", "with NaN or inf", "finite numbers")
        if self.instruction_ids.min() < 0 or self.instruction_ids.max() >= len(self.instructions):
            raise OptionError("instruction_ids", int(self.instruction_ids.max()), f"below {len(self.instructions)}")
        if self.paraphrases is not None and len(self.paraphrases) != len(self.instructions):
            raise OptionError(
                "paraphrases", len(self.paraphrases), f"{len(self.instructions)}, as many as instructions"
            )
        if 1 + np.count_nonzero(np.diff(self.segments)) != len(np.unique(self.segments)):
            raise OptionError("segments", "a number that occurs again later", "consecutive frames for each segment")

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
    def with_images(self) -> NDArray[np.int64]:
        """The frames with images, ascending, shape (M,)."""
        return np.arange(len(self)) if self.image_frames is None else self.image_frames


def join(recordings: Sequence[Frames]) -> Frames:
    """Join several recordings, such as of several tasks.

    Args:
        recordings: The recordings; all have the same cameras and the same optional arrays, except ``commanded`` and
            ``committed``, whose defaults are filled in.
    """
    sizes = np.array([len(frames) for frames in recordings])
    offsets = np.cumsum(sizes) - sizes
    sentences = np.array([len(frames.instructions) for frames in recordings])
    first_ids = np.cumsum(sentences) - sentences
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
        instruction_ids=np.concatenate([f.instruction_ids + i for f, i in zip(recordings, first_ids, strict=True)]),
        segments=np.concatenate(segments),
        image_frames=np.concatenate([f.with_images + offset for f, offset in zip(recordings, offsets, strict=True)]),
        targets=np.concatenate(targets) if targets else None,
        referents=np.concatenate(referents) if referents else None,
        weights=np.concatenate(weights) if weights else None,
        commanded=np.concatenate([f.actions if f.commanded is None else f.commanded for f in recordings])
        if any(f.commanded is not None for f in recordings)
        else None,
        committed=np.concatenate(
            [np.zeros(len(f.with_images), np.int64) if f.committed is None else f.committed for f in recordings]
        )
        if any(f.committed is not None for f in recordings)
        else None,
        paraphrases=[
            [int(first_id) + i for i in group]
            for f, first_id in zip(recordings, first_ids, strict=True)
            for group in (f.paraphrases or [[i] for i in range(len(f.instructions))])
        ],
    )
