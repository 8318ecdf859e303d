"""The dataset of a training run: the original, or a converted copy in the folder of the run."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

from smolvla_gym.cli.options.training import TrainOptions
from smolvla_gym.cli.output import say

COPY: Final = "dataset"
"""Folder of the converted copy, in that of the run."""


def training_dataset(options: TrainOptions, out: Path, undo: contextlib.ExitStack) -> Path:
    """Return the folder of the dataset to train from, after converting it where that is needed.

    Args:
        options: The options, with those that a run which resumes was begun with.
        out: Folder of the run, in which the copy is made.
        undo: Removes the copy.

    Raises:
        DatasetError: The dataset cannot be converted.
    """
    from smolvla_gym.data.convert import convert_dataset
    from smolvla_gym.data.info import read_info
    from smolvla_gym.data.mapping import is_native, parse_renames
    from smolvla_gym.data.transaction import settled_meta

    root, copy = options.dataset, out / COPY
    if options.resume and copy.is_dir():
        return copy
    renames = parse_renames(options.rename or ())
    asked = bool(renames) or options.units not in (None, "auto")
    if not asked and is_native(read_info(root, settled_meta(root)[0])):
        return root
    convert_dataset(root, copy, renames, options.units or "auto")
    undo.callback(shutil.rmtree, copy, ignore_errors=True)
    say(f"{root} was converted to this arm's names and units; the copy is in {copy}")
    return copy
