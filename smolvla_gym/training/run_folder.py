"""The folder of a training run that is gone on with: it may have been copied from elsewhere, like a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.field_checks import (
    Check,
    check_fields,
    flag,
    list_of,
    number,
    one_of,
    optional,
    text,
    whole,
)
from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils.untrusted import printable, read_json_object

RUN: Final = "run.json"

_MAX: Final = 10**9

_FIELDS: Final[Mapping[str, Check]] = {
    "dataset": text(4096),
    "start": optional(text(4096)),
    "trainer": optional(one_of("memory", "lerobot")),
    "cameras": optional(list_of(text(100), 1, 32)),
    "batch_size": optional(whole(1, 2**20)),
    "learning_rate": optional(number(1e-30, 1e3)),
    "freeze_vision": optional(flag),
    "seed": optional(whole(0, 2**63)),
    "rename": optional(list_of(text(300), 0, 100)),
    "units": optional(one_of("auto", "rad", "degrees")),
    "steps": optional(whole(1, _MAX)),
    "save_steps": optional(whole(1, _MAX)),
}


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run was begun with, after a look at its folder: nothing in it leads elsewhere.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not what ``smolvla-gym train`` writes.
        CheckpointError: There is a link in the folder: a run writes, and removes what it wrote.
    """
    _check_links(folder)
    run = check_fields(read_json_object(folder / RUN), _FIELDS, ("dataset",))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in run.items()}


def _check_links(folder: Path) -> None:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not path.is_symlink() and not path.is_junction():
                continue
            # LeRobot's name for its latest saving.
            if path.relative_to(folder).parts == ("lerobot", "checkpoints", "last") and len(path.readlink().parts) == 1:
                continue
            raise CheckpointError(
                f"{printable(path)} is a link, and nothing is written to such a run. Copy the run as plain files, for "
                "instance with `cp -rL`, and go on with the copy."
            )
