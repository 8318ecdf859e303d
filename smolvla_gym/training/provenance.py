"""Write the provenance of a checkpoint: control rate, gripper, instructions and inference delays of its training.

:mod:`smolvla_gym.agent.checkpoint.provenance` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smolvla_gym.agent.checkpoint.provenance import PROVENANCE, Provenance, extract_words, read_provenance
from smolvla_gym.utils.json_file import save_text

__all__ = ["PROVENANCE", "Provenance", "copy_provenance", "describe_training", "read_provenance", "write_provenance"]


def describe_training(
    control_hz: float,
    gripper: str | None,
    instructions: Sequence[str],
    start: Path | None,
    rtc_max_delay: int | None = None,
) -> Provenance:
    """Return the provenance of a policy that is trained on a dataset.

    A policy trained from random weights knows the words of its dataset only. A policy trained from a checkpoint
    inherits the provenance of the checkpoint as far as the dataset agrees with it.

    Args:
        control_hz: Control rate of the dataset in Hz.
        gripper: Gripper of the dataset; None: unknown.
        instructions: Instructions of the dataset.
        start: The checkpoint that training starts from; None: random weights.
        rtc_max_delay: Largest inference delay of the training, in actions; None: that of ``start``.

    Raises:
        CheckpointError: The provenance of ``start`` cannot be read.
    """
    known = Provenance(control_hz, lowercase=True) if start is None else read_provenance(start)
    if known is None:
        return Provenance(control_hz, gripper, rtc_max_delay=rtc_max_delay or 0)
    lowercase = known.lowercase and all(sentence == sentence.lower() for sentence in instructions)
    # A checkpoint without a list of words knows a whole language.
    words = extract_words([*known.words, *instructions]) if start is None or known.words else ()
    delay = known.rtc_max_delay if rtc_max_delay is None else rtc_max_delay
    return Provenance(control_hz, gripper, lowercase, words, delay)


def write_provenance(checkpoint: Path, provenance: Provenance) -> None:
    """Write the provenance of a checkpoint beside its ``config.json``.

    Raises:
        RecordingError: The file cannot be written.
    """
    content: dict[str, Any] = {"control_hz": provenance.control_hz, "gripper": provenance.gripper}
    if provenance.lowercase:
        content["lowercase"] = True
    if provenance.words:
        content["words"] = list(provenance.words)
    if provenance.rtc_max_delay:
        content["rtc_max_delay"] = provenance.rtc_max_delay
    save_text(checkpoint / PROVENANCE, json.dumps(content, ensure_ascii=False) + "\n", "provenance of the policy")


def copy_provenance(source: Path, target: Path) -> None:
    """Copy the provenance of a checkpoint, if there is one, to a checkpoint that was made from it.

    Raises:
        CheckpointError: The file of ``source`` is broken.
        RecordingError: The file of ``target`` cannot be written.
    """
    provenance = read_provenance(source)
    if provenance is not None:
        write_provenance(target, provenance)
