"""Writing beside a checkpoint what it was trained with; :mod:`smolvla_gym.agent.checkpoint.provenance` reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolvla_gym.agent.checkpoint.provenance import PROVENANCE, Provenance, extract_words, read_provenance
from smolvla_gym.training.saving import replace_text

__all__ = ["PROVENANCE", "Provenance", "copy_provenance", "describe_training", "read_provenance", "write_provenance"]


def describe_training(
    control_hz: float, gripper: str | None, instructions: Sequence[str], start: Path | None
) -> Provenance:
    """Return what a policy is trained with.

    A policy from random weights knows the words of its dataset and no others. One that begins from a checkpoint keeps
    what is said of that one, as far as the dataset agrees.

    Args:
        control_hz: Of the dataset, in Hz.
        gripper: Of the dataset; None: unknown.
        instructions: Those of the dataset.
        start: The checkpoint that it begins from; None: random weights.

    Raises:
        CheckpointError: What ``start`` says of itself cannot be read.
    """
    known = Provenance(control_hz, lowercase=True) if start is None else read_provenance(start)
    if known is None:
        return Provenance(control_hz, gripper)
    lowercase = known.lowercase and all(sentence == sentence.lower() for sentence in instructions)
    # A checkpoint that lists no words knows those of a language.
    words = extract_words([*known.words, *instructions]) if start is None or known.words else ()
    return Provenance(control_hz, gripper, lowercase, words)


def write_provenance(checkpoint: Path, provenance: Provenance) -> None:
    """Write beside ``config.json`` what a checkpoint was trained with."""
    content: dict[str, Any] = {"control_hz": provenance.control_hz, "gripper": provenance.gripper}
    if provenance.lowercase:
        content["lowercase"] = True
    if provenance.words:
        content["words"] = list(provenance.words)
    replace_text(checkpoint / PROVENANCE, json.dumps(content, ensure_ascii=False) + "\n")


def copy_provenance(source: Path, target: Path) -> None:
    """Give a checkpoint what another one, that it was made of, was trained with; do nothing where that is unknown.

    Raises:
        CheckpointError: The file of ``source`` is broken.
    """
    provenance = read_provenance(source)
    if provenance is not None:
        write_provenance(target, provenance)
