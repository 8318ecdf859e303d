"""File with the state of a training run: what the run needs to continue from its last checkpoint.

The file may come from elsewhere, so that it is read without pickle and checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import CheckpointError, MissingExtraError
from smolvla_gym.training.tiny.archive import check_archive

try:
    import torch
except ImportError as _err:
    raise MissingExtraError("Training", "smolvla", _err) from _err

_MAX_STEPS: Final = 10**9


def step_of(path: Path) -> int:
    """Return the step at which a run was last saved, 0 where the file does not exist.

    Args:
        path: The state file of the run.

    Raises:
        CheckpointError: The file cannot be read.
    """
    return int(load_state(path)["step"]) if path.exists() else 0


def load_state(path: Path) -> dict[str, Any]:
    """Return the content of a state file; ``step`` and ``seconds`` are checked, the other entries are not.

    Raises:
        CheckpointError: The file cannot be read, or is no file that :func:`save_state` writes.
    """
    try:
        check_archive(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not 0 <= int(state["step"]) <= _MAX_STEPS or not 0.0 <= float(state["seconds"]) < math.inf:
            raise ValueError(f"its step is {state['step']!r:.40}")
    except Exception as err:  # torch and pickle raise errors of any type for a broken file
        raise broken_state(path, err) from err
    return state


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state file; a crash leaves the previous one."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)  # it may be a link to a file elsewhere
    torch.save(state, part)
    part.replace(path)


def broken_state(path: Path, reason: Exception) -> CheckpointError:
    """Return the error to raise for a state file that is broken or belongs to another policy."""
    return CheckpointError(
        f"{path} cannot be resumed from ({type(reason).__name__}: {' '.join(str(reason).split())[:200]}). "
        "It is broken, or of another policy: remove it, and the run starts anew."
    )
