"""``meta/parol6.json`` of a dataset: seeds and scenes of its episodes, and episodes that were not kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.info import META
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.json_file import save_text
from smolvla_gym.utils.untrusted import printable, read_json_object

SEEDS: Final = "parol6.json"

_MAX_BYTES: Final = 256 << 20
_MAX_NUMBER: Final = 2**63
_COUNTS: Final = ("left_out", "solved_alone")
_OPTIONAL: Final = ("next_seed", "num_objects", "randomization")


def read_seeds(root: Path, meta: Path | None = None) -> dict[str, Any]:
    """Return the content of ``meta/parol6.json``: gripper, seeds and scenes; empty where there is no such file.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: The file is broken.
    """
    path = (meta or root / META) / SEEDS
    try:
        content = read_json_object(path, _MAX_BYTES)
        _check(content)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is broken ({printable(error, 200)}). Take another copy of it, or remove it: the frames are "
            "complete without it, but the seeds are lost. Then record with a --seed that was not used before."
        ) from error
    return content


def _check(content: Mapping[str, Any]) -> None:
    episodes, left_out = content.get("episodes", []), content.get("left_out_seeds", [])
    if not isinstance(episodes, list) or not all(isinstance(episode, dict) for episode in episodes):
        raise ValueError("episodes is not a list of objects")
    if not isinstance(left_out, list):
        raise ValueError("left_out_seeds is not a list")
    numbers = [*(episode.get("seed") for episode in episodes), *left_out]
    numbers += [content[name] for name in _COUNTS if name in content]
    numbers += [content[name] for name in _OPTIONAL if content.get(name) is not None]
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MAX_NUMBER:
            raise ValueError(f"{number!r:.60} is not a whole number from 0")
    if not isinstance(content.get("gripper"), str | None):
        raise ValueError(f"gripper is {content['gripper']!r:.60}, not a name")


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
