"""Folder of a training run that is resumed: it may come from elsewhere, like a checkpoint, and is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.agent.checkpoint.provenance import MAX_DELAY
from smolvla_gym.errors import CheckpointError
from smolvla_gym.utils import schema
from smolvla_gym.utils.untrusted import is_link, printable, read_json_object

RUN: Final = "run.json"

MAX_STEPS: Final = 10**9
MAX_BATCH: Final = 2**20
MAX_SEED: Final = 2**63 - 1
"""Largest seed that PyTorch and a JSON reader in another language take."""

_FIELDS: Final[Mapping[str, schema.Check]] = {
    "dataset": schema.text(4096),
    "start": schema.optional(schema.text(4096)),
    "trainer": schema.optional(schema.one_of("memory", "lerobot")),
    "cameras": schema.optional(schema.list_of(schema.text(100), 1, 32)),
    "batch_size": schema.optional(schema.whole(1, MAX_BATCH)),
    "learning_rate": schema.optional(schema.number(1e-30, 1e3)),
    "freeze_vision": schema.optional(schema.flag),
    "rtc_delay": schema.optional(MAX_DELAY),
    "seed": schema.optional(schema.whole(0, MAX_SEED)),
    "rename": schema.optional(schema.list_of(schema.text(300), 0, 100)),
    "units": schema.optional(schema.one_of("auto", "rad", "degrees")),
    "steps": schema.optional(schema.whole(1, MAX_STEPS)),
    "save_steps": schema.optional(schema.whole(1, MAX_STEPS)),
}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the options that a run was started with, and refuse a folder with links.

    Raises:
        OSError: The file ``run.json`` is missing, or cannot be read.
        ValueError: The file is not one that ``smolvla-gym train`` writes.
        CheckpointError: The folder contains a link: a run would write or remove files behind it.
    """
    _check_links(folder)
    run = schema.check_fields(read_json_object(folder / RUN), _FIELDS, ("dataset",))
    return {name: list(value) if isinstance(value, tuple) else value for name, value in run.items()}


def _check_links(folder: Path) -> None:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not is_link(path):
                continue
            # LeRobot's link to its last checkpoint.
            if path.relative_to(folder).parts == ("lerobot", "checkpoints", "last") and len(path.readlink().parts) == 1:
                continue
            raise CheckpointError(
                f"{printable(path)} is a link, and a run with links is not resumed. Copy the run as plain files, for "
                "instance with `cp -rL`, and resume the copy."
            )
