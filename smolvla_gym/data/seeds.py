"""What LeRobot does not keep of a dataset: seeds, scenes and what was left out, in ``meta/parol6.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from smolvla_gym.data.files import META, PART, sync
from smolvla_gym.errors import DatasetError

_NAME: Final = "parol6.json"


def read_seeds(root: Path) -> dict[str, Any]:
    """Returns ``meta/parol6.json`` of a dataset: gripper, seeds and scenes; empty where there is none.

    Raises:
        DatasetError: It is broken.
    """
    path = root / META / _NAME
    try:
        seen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        numbers = [episode["seed"] for episode in seen.get("episodes", [])] + seen.get("left_out_seeds", [])
        numbers += [seen.get("left_out", 0), seen.get("solved_alone", 0), seen.get("next_seed") or 0]
        if wrong := [number for number in numbers if type(number) is not int]:
            raise ValueError(f"{wrong[0]!r} is no whole number")
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(
            f"{path} is broken ({type(error).__name__}: {error}). Take another copy of it, or remove it: the frames "
            "are complete without it, but the seeds are lost. Then begin with a --seed that was not used before."
        ) from error
    return seen


def write_seeds(root: Path, seen: dict[str, Any]) -> None:
    """Writes ``meta/parol6.json``, in one step: a crash leaves the one before."""
    path = root / META / _NAME
    part = path.with_name(path.name + PART)
    part.write_text(json.dumps(seen, indent=1) + "\n", encoding="utf-8")
    sync(part)
    part.replace(path)


def in_common(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the scenes of all episodes agree in; None where they differ, or some do not say."""
    names = {name for episode in episodes for name in episode} - {"seed", "source"}
    values = {name: [episode.get(name) for episode in episodes] for name in sorted(names)}
    return {name: found[0] if found.count(found[0]) == len(found) else None for name, found in values.items()}
