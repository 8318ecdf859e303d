"""What LeRobot does not keep of a dataset: seeds, scenes and what was left out, in ``meta/parol6.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.files import PART, sync
from smolvla_gym.data.info import META
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable, read_json_object

SEEDS: Final = "parol6.json"

_MAX_BYTES: Final = 256 << 20
_MAX_NUMBER: Final = 2**63
_COUNTS: Final = ("left_out", "solved_alone")
_OPTIONAL: Final = ("next_seed", "num_objects", "randomization")


def read_seeds(root: Path, meta: Path | None = None) -> dict[str, Any]:
    """Return ``meta/parol6.json`` of a dataset: gripper, seeds and scenes; empty where there is none.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: It is broken.
    """
    path = (meta or root / META) / SEEDS
    try:
        content = read_json_object(path, _MAX_BYTES)
        _check(content)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is broken ({printable(error, 200)}). Take another copy of it, or remove it: the frames "
            "are complete without it, but the seeds are lost. Then begin with a --seed that was not used before."
        ) from error
    return content


def _check(content: Mapping[str, Any]) -> None:
    episodes, left_out = content.get("episodes", []), content.get("left_out_seeds", [])
    if not isinstance(episodes, list) or not all(isinstance(episode, dict) for episode in episodes):
        raise ValueError("episodes is no list of objects")
    if not isinstance(left_out, list):
        raise ValueError("left_out_seeds is no list")
    numbers = [*(episode.get("seed") for episode in episodes), *left_out]
    numbers += [content[name] for name in _COUNTS if name in content]
    numbers += [content[name] for name in _OPTIONAL if content.get(name) is not None]
    for number in numbers:
        if type(number) is not int or not 0 <= number < _MAX_NUMBER:
            raise ValueError(f"{number!r:.60} is no whole number from 0 on")
    if not isinstance(content.get("gripper"), str | None):
        raise ValueError(f"gripper is {content['gripper']!r:.60}, not a name")


def write_seeds(root: Path, seen: dict[str, Any]) -> None:
    """Write ``meta/parol6.json``, in one step: a crash leaves the one before."""
    path = root / META / SEEDS
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)  # it may be another name of a file elsewhere
    part.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    sync(part)
    part.replace(path)


def in_common(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the scenes of all episodes agree in; None where they differ, or some do not say."""
    names = {name for episode in episodes for name in episode} - {"seed", "source"}
    values = {name: [episode.get(name) for episode in episodes] for name in sorted(names)}
    return {name: found[0] if found.count(found[0]) == len(found) else None for name, found in values.items()}
