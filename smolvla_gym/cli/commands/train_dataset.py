"""The dataset of a training run: the original, or a converted copy in the folder of the run."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from smolvla_gym.cli.options.training import TrainOptions
from smolvla_gym.cli.output import new_folder, say
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.file_lock import lock_folder

COPY: Final = "dataset"
"""Folder of the converted copy, in that of the run."""


def training_dataset(options: TrainOptions, stack: contextlib.ExitStack) -> tuple[Path, Callable[[], Any]]:
    """Return the folder of the dataset to train from, after converting it where that is needed.

    The copy is made in the folder of the run, which is locked then and set as ``options.out``.

    Args:
        options: The options, with those that a run which resumes was begun with.
        stack: Removes the copy at its end unless the run has begun.

    Returns:
        The folder, and the function to call once the run has begun: from then on the copy stays.

    Raises:
        DatasetError: The dataset cannot be converted.
    """
    from smolvla_gym.data.convert import convert_dataset
    from smolvla_gym.data.info import read_info
    from smolvla_gym.data.mapping import is_native, parse_renames
    from smolvla_gym.data.transaction import settled_meta

    copy = None if options.out is None else options.out / COPY
    if options.resume and copy is not None and copy.is_dir():
        return copy, lambda: None
    renames = parse_renames(options.rename or ())
    root = options.dataset
    asked = bool(renames) or options.units not in (None, "auto")
    if not asked and is_native(read_info(root, settled_meta(root)[0])):
        return root, lambda: None
    undo = stack.enter_context(contextlib.ExitStack())
    is_new = options.out is None or not options.out.exists()
    out = options.out or new_folder("train")
    if is_new:
        undo.callback(_remove_empty, out)
    out.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        stack.enter_context(lock_folder(out))
        if any(out.iterdir()):  # another program may have begun there, and ended, meanwhile
            raise OptionError("--out", str(out), "a new folder, or --resume to go on with the run in it")
    convert_dataset(root, out / COPY, renames, options.units or "auto")
    undo.callback(shutil.rmtree, out / COPY, ignore_errors=True)
    options.out = out
    say(f"{root} was converted to this arm's names and units; the copy is in {out / COPY}")
    return out / COPY, undo.pop_all


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
