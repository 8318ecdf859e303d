"""The control rate and the gripper that a policy was trained with, in a file of their own: LeRobot keeps neither."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from smolvla_gym.agent.fields import shown
from smolvla_gym.errors import CheckpointError
from smolvla_gym.training.saving import replace_text
from smolvla_gym.untrusted import read_json_object

PROVENANCE: Final = "parol6.json"
"""Beside ``config.json``. LeRobot and the agent load a checkpoint with or without it."""

_MAX_BYTES: Final = 1 << 16


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
    if not path.exists():
        return None
    try:
        content = read_json_object(path, _MAX_BYTES)
        hz, gripper = content["control_hz"], content.get("gripper")
        if isinstance(hz, bool) or not isinstance(hz, int | float) or not 0 < hz < float("inf"):
            raise ValueError(f"control_hz is {shown(hz)}, not a number above 0")
        if not isinstance(gripper, str | None):
            raise ValueError(f"gripper is {shown(gripper)}, not a name")
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
