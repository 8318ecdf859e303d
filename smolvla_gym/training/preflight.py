"""Check before a training run that its result can be saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from smolvla_gym.agent.checkpoint.spec import WEIGHTS
from smolvla_gym.errors import OptionError, needs_extra

_COPIES: Final = {"memory": 9, "lerobot": 5}
"""Disk space of a run, in sizes of the weights file.

In memory: start, policy and its successor; the state of the run with parameters, means and the two moments of AdamW,
and half of that state's successor. By LeRobot: start and policy, which are links where the file system supports them,
and a checkpoint of weights and two moments.
"""

_SPARE: Final = 200e6
"""Bytes for all other files: decoded frames, curves, logs."""

_TINY: Final = 8e6
"""Size in bytes of the weights of a new tiny policy."""


def check_run(out: Path, start: Path | None, trainer: str) -> None:
    """Refuse a run whose result could not be saved.

    Args:
        out: Folder of the run; it need not exist.
        start: The checkpoint to start from; None: a new tiny one.
        trainer: ``"memory"`` or ``"lerobot"``.

    Raises:
        OptionError: The folder cannot be written, or the disk has too little free space.
        MissingExtraError: matplotlib, which draws the curve, is not installed.
    """
    with needs_extra("The curve of a training run", "smolvla"):
        import matplotlib  # noqa: F401
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError("--out", str(out), f"a folder that can be written; {folder} cannot")
    weights = _TINY if start is None else (start / WEIGHTS).stat().st_size
    needed = _COPIES[trainer] * weights + _SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OptionError(
            "--out",
            str(out),
            f"on a disk with {needed / 1e9:.1f} GB free for a run from this policy, not {free / 1e9:.1f}",
        )
