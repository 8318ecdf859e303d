"""The dataset of a training run: in its folder as it is, or a converted copy in the folder of the run."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from smolvla_gym.cli.options.arguments import new_folder
from smolvla_gym.errors import OptionError
from smolvla_gym.utils.file_lock import lock_folder

COPY: Final = "dataset"
"""Folder of the converted copy, in that of the run."""

_UNITS: Final = ("auto", "rad", "degrees")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a dataset of other names or units is converted."""
    parser.add_argument(
        "--rename",
        action="append",
        metavar="OLD=NEW",
        help="another name for a camera (front=wrist) or a component (shoulder_pan.pos=joint_1); can be given again",
    )
    parser.add_argument(
        "--units",
        choices=_UNITS,
        help="units of the dataset: rad with a gripper from 0 to 1, degrees with one from 0 to 100 (default: auto, "
        "what the values of joint_3 show)",
    )


def training_dataset(
    arguments: argparse.Namespace, stack: contextlib.ExitStack, say: Callable[[str], None]
) -> tuple[Path, Callable[[], Any]]:
    """Return the folder of the dataset to train from, after converting it where that is needed.

    The copy is made in the folder of the run, which is locked then and set as ``arguments.out``.

    Args:
        arguments: Those of ``smolvla-gym train``; what a run was begun with is in them.
        stack: Removes the copy at its end unless the run has begun.
        say: Prints a line.

    Returns:
        The folder, and what to call once the run has begun: from then on the copy stays.

    Raises:
        DatasetError: The dataset cannot be converted.
    """
    from smolvla_gym.data.convert import convert_dataset
    from smolvla_gym.data.info import read_info
    from smolvla_gym.data.mapping import is_native, parse_renames
    from smolvla_gym.data.transaction import settled_meta

    copy: Path | None = None if arguments.out is None else arguments.out / COPY
    if arguments.resume and copy is not None and copy.is_dir():
        return copy, lambda: None
    renames = parse_renames(arguments.rename or ())
    root: Path = arguments.dataset
    asked = bool(renames) or arguments.units not in (None, "auto")
    if not asked and is_native(read_info(root, settled_meta(root)[0])):
        return root, lambda: None
    undo = stack.enter_context(contextlib.ExitStack())
    is_new = arguments.out is None or not arguments.out.exists()
    out: Path = arguments.out or new_folder("train")
    if is_new:
        undo.callback(_remove_empty, out)
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        stack.enter_context(lock_folder(out))
        if any(out.iterdir()):  # another program may have begun there, and ended, meanwhile
            raise OptionError("--out", str(out), "a new folder, or --resume to go on with the run in it")
    convert_dataset(root, out / COPY, renames, arguments.units or "auto")
    undo.callback(shutil.rmtree, out / COPY, ignore_errors=True)
    arguments.out = out
    say(f"{root} was converted to this arm's names and units; the copy is in {out / COPY}")
    return out / COPY, undo.pop_all


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
