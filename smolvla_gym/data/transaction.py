"""What is written to a dataset is there as a whole or not at all.

Before an episode is written the folder ``meta`` is copied; LeRobot then writes new files and changes only those in
``meta``. Whoever finds the copy knows that the writing was cut off, puts it back, and removes the files that it does
not know. What one step relies on is written through to the disk before it, for a power loss.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from smolvla_gym.data.files import META, PART, copy_meta, read_episodes, sync, sync_tree
from smolvla_gym.errors import DatasetError
from smolvla_gym.signals import SIGNALS

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_COPY: Final = ".meta_before"


def repair(root: Path) -> str | None:
    """Makes a dataset whole again whose writing was cut off.

    Args:
        root: Its folder; it need not exist.

    Returns:
        What was lost, in words; None: nothing.

    Raises:
        DatasetError: Another program is writing an episode at this moment.
    """
    if not _is_cut_off(root):
        return None
    with lock(root):
        return repair_locked(root)


def _is_cut_off(root: Path) -> bool:
    """Tells whether an episode is being written, or was when the program was killed."""
    first = first_part(root).is_dir() and not root.exists()
    return first or (root / _COPY).is_dir() or (root / (_COPY + PART)).is_dir()


def repair_locked(root: Path) -> str | None:
    """Does what :func:`repair` does; for whoever has the :func:`lock`."""
    part = first_part(root)
    if part.is_dir() and not root.exists():
        shutil.rmtree(part)
        return "its first episode, which was being written when the program was killed"
    copy = root / _COPY
    shutil.rmtree(root / (_COPY + PART), ignore_errors=True)
    if not copy.is_dir():
        return None
    _remove_unknown(root, copy)  # first: once the copy is back, nobody would look for them again
    shutil.rmtree(root / META, ignore_errors=True)
    copy.rename(root / META)
    return "the last episode, which was being written when the program was killed"


@contextlib.contextmanager
def transaction(root: Path) -> Iterator[None]:
    """Takes back what the block wrote unless it comes to its end; for whoever has the :func:`lock`."""
    part, copy = root / (_COPY + PART), root / _COPY
    shutil.rmtree(part, ignore_errors=True)
    copy_meta(root / META, part)
    part.rename(copy)
    sync(root)
    known = {path for path in root.rglob("*") if path.parent != root / META}
    try:
        yield
        sync_tree(root, known)
    except BaseException:
        repair_locked(root)
        raise
    copy.rename(part)  # from here on the new state is the one that counts
    sync(root)
    shutil.rmtree(part)


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Keeps other programs from writing, and from taking what is being written for what a crash has left.

    The system lets go of it when the program ends in whatever way.

    Raises:
        DatasetError: Another program has it.
    """
    if fcntl is None:
        yield
        return
    path = root.with_name(f".{root.name}.parol6.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file after we opened it: then what we hold keeps nobody out.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError
        except OSError as error:
            raise DatasetError(
                f"An episode is being written to {root} at this moment. Try again when that is done."
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def first_part(root: Path) -> Path:
    """Returns where the first episode is written; a name that nobody else's folder has, since it is removed."""
    return root.with_name(f".{root.name}.parol6{PART}")


def _remove_unknown(root: Path, meta: Path) -> None:
    """Removes files that no episode in ``meta`` refers to."""
    info = json.loads((meta / "info.json").read_text(encoding="utf-8"))
    known = {path for episode in read_episodes(root, meta, info) for path in episode.paths}
    for folder in ("data", "videos"):
        for file in (root / folder).rglob("*.*"):
            if file.is_file() and file not in known:
                file.unlink()
    for entry in root.iterdir():
        if entry.is_dir() and (entry.name == "images" or entry.name.startswith("tmp")):
            shutil.rmtree(entry)


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Keeps SIGINT, SIGTERM and SIGHUP until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came[:1]:
            signal.raise_signal(late)
