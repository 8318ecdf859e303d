"""What several commands have in common: how arguments are read, and the folder that results go to."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smolvla_gym.errors import OptionError
from smolvla_gym.utils.file_lock import lock_folder


def at_least(lowest: int) -> Callable[[str], int]:
    """Returns a parser of integers that are not below ``lowest``."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= lowest:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} on")

    return parse


def positive(text: str) -> float:
    """Parses a finite number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


@contextlib.contextmanager
def output_folder(chosen: Path | None, command: str) -> Iterator[Path]:
    """Makes the output folder and holds it; an exception carries the note where the files are.

    No empty folder is left.

    Args:
        chosen: The folder; None: one named after the time in ``outputs/<command>``.
        command: The command that writes there.

    Raises:
        OptionError: A file of this name is there.
        RecordingError: Another program is writing there.
        OSError: It cannot be made.
    """
    is_new = chosen is None or not chosen.exists()
    out = chosen or new_folder(command)
    if out.exists() and not out.is_dir():
        raise OptionError("--out", str(out), "the name of a folder; this is a file")
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        yield from _watched(out, is_new)


def _watched(out: Path, is_new: bool) -> Iterator[Path]:
    before = _contents(out)
    try:
        yield out
    except BaseException as error:
        after = _contents(out)
        if after - before:
            error.add_note(f"what was recorded until then is in {out}")
        elif is_new and not after:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _contents(folder: Path) -> set[tuple[Path, int]]:
    try:
        return {(path, path.lstat().st_mtime_ns) for path in folder.iterdir()}
    except OSError:  # somebody has removed it meanwhile
        return set()


def new_folder(command: str) -> Path:
    """Makes a folder named after the time, of its own for each of several that start together."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        out = Path("outputs", command) / (name if number == 1 else f"{name}_{number}")
        with contextlib.suppress(FileExistsError):
            out.mkdir(parents=True)
            break
    return out
