"""``meta/parol6.json`` of a dataset: seeds and scenes of its episodes, and episodes that were not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.info import META
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils import schema
from smolvla_gym.utils.json_file import save_text
from smolvla_gym.utils.untrusted import read_json_object, reading_as

SEEDS: Final = "parol6.json"
CAMERA_SERIALS: Final = "camera_serials"
"""Field with the serial number of each camera by name, where they are those of a real arm or the twin."""

_MAX_BYTES: Final = 256 << 20
_NUMBER: Final = schema.whole(0, 2**63 - 1)
_FIELDS: Final[Mapping[str, schema.Check]] = {
    "gripper": schema.optional(schema.text()),
    "episodes": schema.list_of(schema.object_of({"seed": _NUMBER}, ("seed",), others=True), 0, 10**9),
    "left_out_seeds": schema.list_of(_NUMBER, 0, 10**9),
    "left_out": _NUMBER,
    "solved_alone": _NUMBER,
    "next_seed": schema.optional(_NUMBER),
    "num_objects": schema.optional(_NUMBER),
    "randomization": schema.optional(_NUMBER),
    CAMERA_SERIALS: schema.mapping_of(schema.text(64), schema.text(64), 64),
}


def read_seeds(root: Path, meta: Path | None = None) -> dict[str, Any]:
    """Return the content of ``meta/parol6.json``: gripper, seeds and scenes; empty where there is no such file.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: The file is broken.
    """
    path = (meta or root / META) / SEEDS
    advice = (
        "Take another copy of it, or remove it: the frames are complete without it, but the seeds are lost. Then "
        "record with a --seed that was not used before."
    )
    try:
        with reading_as(DatasetError, path, advice):
            content = read_json_object(path, _MAX_BYTES)
            schema.check_fields(content, _FIELDS, others=True)
    except FileNotFoundError:
        return {}
    return content


def write_seeds(root: Path, content: Mapping[str, Any]) -> None:
    """Write ``meta/parol6.json``; a crash leaves the previous file.

    Raises:
        RecordingError: The file cannot be written.
    """
    save_text(root / META / SEEDS, json.dumps(content, indent=1) + "\n", "record of seeds")


def in_common(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scene options of all episodes; None for an option that differs, or that an episode lacks."""
    names = {name for episode in episodes for name in episode} - {"seed", "source"}
    values = {name: [episode.get(name) for episode in episodes] for name in sorted(names)}
    return {name: found[0] if found.count(found[0]) == len(found) else None for name, found in values.items()}
