"""The control rate and the gripper that a policy was trained with, in a file of their own: LeRobot keeps neither."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.saving import replace_text

PROVENANCE: Final = "parol6.json"
"""Beside ``config.json``. LeRobot and the agent load a checkpoint with or without it."""


@dataclass(frozen=True)
class Provenance:
    """What a policy was trained with.

    Attributes:
        control_hz: Frames a second of the demonstrations: the rate in Hz at which its actions follow each other.
        gripper: The gripper that was mounted; None: unknown.
    """

    control_hz: float
    gripper: str | None = None


def read_provenance(checkpoint: Path) -> Provenance | None:
    """Returns what a checkpoint was trained with, None where it does not say.

    Raises:
        CheckpointError: The file is broken.
    """
    path = checkpoint / PROVENANCE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        hz, gripper = content["control_hz"], content.get("gripper")
        if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz < float("inf"):
            raise ValueError(f"control_hz is {hz!r}, not a number above 0")
        if not isinstance(gripper, str | None):
            raise ValueError(f"gripper is {gripper!r}, not a name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is broken ({type(error).__name__}: {error}). Take another copy of the checkpoint."
        ) from error
    return Provenance(hz, gripper)


def write_provenance(checkpoint: Path, provenance: Provenance) -> None:
    """Writes beside ``config.json`` what a checkpoint was trained with."""
    replace_text(checkpoint / PROVENANCE, json.dumps(asdict(provenance)) + "\n")


def copy_provenance(source: Path, target: Path) -> None:
    """Gives a checkpoint what another one, that it was made of, was trained with; does nothing where that is unknown.

    Raises:
        CheckpointError: The file of ``source`` is broken.
    """
    provenance = read_provenance(source)
    if provenance is not None:
        write_provenance(target, provenance)
