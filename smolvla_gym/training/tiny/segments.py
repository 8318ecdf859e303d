"""Segments of recorded episodes, and how they are joined to the frames of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.tasks import TASKS
from smolvla_gym.training.tiny.frames import Frames
from smolvla_gym.training.tiny.paraphrases import paraphrases

_PARAPHRASES: Final = 400
"""Paraphrases of each instruction, in addition to the env's own templates."""

type Meaning = tuple[str, str, str]
"""Template of an instruction, the named colour, and the second colour or ``""``."""


@dataclass
class Segment:
    """Uninterrupted part of an episode.

    Attributes:
        meaning: The meaning of the instruction.
        images: Images of each camera, of every ``stride``-th frame.
        states: ``agent_pos`` of every frame, each shape (7,).
        actions: Label of every frame: the expert's action, each shape (7,).
        commanded: Actions commanded in every frame, each shape (7,).
        targets: Positions of all objects, of the frames with images.
        referents: Positions of the named objects, of the frames with images.
        weights: Sampling weights of the frames with images.
        lead: Number of frames at the start in which the commanded action differs from the labels.
    """

    meaning: Meaning
    images: dict[str, list[NDArray[np.uint8]]]
    states: list[NDArray[np.float32]]
    actions: list[NDArray[np.float32]]
    commanded: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]
    referents: list[NDArray[np.float32]]
    weights: list[float]
    lead: int = 0


def join_segments(segments: Sequence[Segment], task: str, stride: int) -> Frames:
    """Return the frames of all segments, with paraphrases of their instructions.

    Args:
        segments: The segments; all have the same cameras.
        task: Name of the task.
        stride: Frames from one with images to the next.
    """
    meanings = sorted({segment.meaning for segment in segments})
    instructions, same = _instructions(task, meanings)
    lengths = np.array([len(segment.states) for segment in segments])
    starts = np.cumsum(lengths) - lengths
    late = any(segment.lead for segment in segments)
    return Frames(
        images={c: np.concatenate([np.stack(s.images[c]) for s in segments]) for c in segments[0].images},
        states=np.concatenate([np.stack(s.states) for s in segments]),
        actions=np.concatenate([np.stack(s.actions) for s in segments]),
        instructions=instructions,
        instruction_ids=np.repeat([meanings.index(s.meaning) for s in segments], lengths).astype(np.int64),
        segments=np.repeat(np.arange(len(segments)), lengths).astype(np.int64),
        image_frames=np.concatenate(
            [start + np.arange(0, n, stride) for start, n in zip(starts, lengths, strict=True)]
        ),
        targets=np.concatenate([np.stack(s.targets) for s in segments]),
        referents=np.concatenate([np.stack(s.referents) for s in segments]),
        weights=np.concatenate([np.array(s.weights) for s in segments]),
        commanded=np.concatenate([np.stack(s.commanded) for s in segments]) if late else None,
        committed=np.concatenate(
            [np.maximum(s.lead - np.arange(0, n, stride), 0) for s, n in zip(segments, lengths, strict=True)]
        )
        if late
        else None,
        paraphrases=same,
    )


def _instructions(task: str, meanings: Sequence[Meaning]) -> tuple[list[str], list[list[int]]]:
    """Return instructions, those of the meanings first, and for each of them the indices of its paraphrases."""
    rng = np.random.default_rng(0)
    templates = (*TASKS[task].instruction_templates, *rng.permutation(paraphrases(task))[:_PARAPHRASES])
    instructions = [template.format(color=color, base=base) for template, color, base in meanings]
    colors = sorted({meaning[1:] for meaning in meanings})
    same = []
    for color, base in colors:
        spoken = [template.format(color=color, base=base) for template in templates]
        same.append([len(instructions) + i for i in range(len(spoken))])
        instructions += spoken
    groups = [same[colors.index(meaning[1:])] for meaning in meanings]
    return instructions, groups + [group for group in same for _ in group]
