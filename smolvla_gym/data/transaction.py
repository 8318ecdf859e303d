"""Write an episode to a dataset as a whole or not at all, and repair a dataset after a crash.

Before an episode is written, the folder ``meta`` is copied to ``.meta_before``. LeRobot then writes new files, and
changes only the files in ``meta``. A copy that is found later means that the writing was interrupted. A writer then
puts the copy back and moves the files that it does not know into ``.removed``. A reader reads the copy and changes
nothing. Each step is written through to the disk before the next one relies on it.

A writer changes only datasets that this package recorded, made of plain files and folders: see
:mod:`smolvla_gym.data.folder`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from smolvla_gym.data.disk import PART, copy_meta, sync, sync_tree
from smolvla_gym.data.files import read_episodes
from smolvla_gym.data.folder import beside, check_plain, check_recorded, set_aside, set_aside_beside, unshare
from smolvla_gym.data.info import META
from smolvla_gym.data.lock import busy, is_locked, lock
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.signals import SIGNALS
from smolvla_gym.utils.untrusted import is_link

_COPY: Final = ".meta_before"
_LOST: Final = "the last episode, which was being written when the program was killed"


def repair(root: Path) -> str | None:
    """Repair a dataset after an interrupted writing; removed files are moved to ``.removed``.

    Args:
        root: Folder of the dataset; it need not exist.

    Returns:
        A sentence part that says what was lost and where its files are; None: the dataset is whole.

    Raises:
        DatasetError: Another program is writing an episode; or the folder is not a dataset that this package
            recorded, or contains a link. Then nothing was changed.
    """
    if not _is_interrupted(root):
        return None
    if root.exists():
        _check_repairable(root)
    with lock(root):
        return repair_locked(root)


def settled_meta(root: Path) -> tuple[Path, str | None]:
    """Return the folder whose metadata a reader uses; nothing is changed.

    Args:
        root: Folder of a dataset.

    Returns:
        ``meta`` and None; or, after an interrupted writing, the copy of ``meta`` and a sentence part that says what
        was lost.

    Raises:
        DatasetError: Another program is writing an episode.
    """
    copy = root / _COPY
    if not copy.is_dir() or is_link(copy):
        return root / META, None
    try:
        check_recorded(root, copy)
    except DatasetError:
        return root / META, None  # in a dataset of another program the folder has no meaning
    if is_locked(root):
        raise busy(root)
    return copy, _LOST


def _is_interrupted(root: Path) -> bool:
    """Return True where an episode is being written, or was when the program was killed."""
    if not root.exists():
        return os.path.lexists(first_part(root))
    return any(os.path.lexists(root / name) for name in (_COPY, _COPY + PART))


def _check_repairable(root: Path) -> None:
    """Refuse a folder that has a copy of ``meta`` and is not a dataset of this package, made of plain files."""
    copy = root / _COPY
    try:
        check_plain(root)
        check_recorded(root, copy if copy.is_dir() else root / META)
    except DatasetError as error:
        name = _COPY if os.path.lexists(copy) else _COPY + PART
        raise DatasetError(
            f"{root} has {name}, which is left by a program that was killed while it wrote an episode. The dataset "
            f"cannot be repaired, and nothing was changed: {error}"
        ) from error


def repair_locked(root: Path) -> str | None:
    """Repair a dataset as :func:`repair` does; the caller holds the lock."""
    part, copy, spare = first_part(root), root / _COPY, root / (_COPY + PART)
    if not root.exists():
        if not os.path.lexists(part):
            return None
        target = set_aside_beside(root, part)
        return f"its first episode, which was being written when the program was killed; its files are in {target}"
    if not _is_interrupted(root):
        return None
    _check_repairable(root)
    if not copy.is_dir():
        set_aside(root, [spare])  # half a copy: the writing itself had not started
        return None
    # The unknown files first: after the copy is back, nothing marks them as unknown.
    target = set_aside(root, [spare, *_unknown(root, copy), root / META])
    copy.rename(root / META)
    sync(root)
    return f"{_LOST}; its files are in {target}"


@contextlib.contextmanager
def transaction(root: Path) -> Iterator[None]:
    """Undo everything that the block writes unless the block ends without an exception; the caller holds the lock.

    Args:
        root: Folder of the dataset, which :func:`smolvla_gym.data.folder.check_plain` has accepted.
    """
    part, copy = root / (_COPY + PART), root / _COPY
    copy_meta(root / META, part)
    part.rename(copy)
    sync(root)
    unshare(root)
    known = {path for path in root.rglob("*") if path.parent != root / META}
    try:
        yield
        sync_tree(root, known)
    except BaseException:
        _undo(root, known)
        raise
    copy.rename(part)  # from here on the new state counts
    sync(root)
    shutil.rmtree(part)


def _undo(root: Path, known: Collection[Path]) -> None:
    """Remove the files that this program wrote since ``known`` was listed, and put the copy of ``meta`` back."""
    for path in sorted(root.rglob("*"), reverse=True):  # the files of a folder before the folder
        if path in known or path == root / META or path.is_relative_to(root / META):
            continue
        if path.is_dir() and not is_link(path):
            path.rmdir()
        else:
            path.unlink()
    shutil.rmtree(root / META)
    (root / _COPY).rename(root / META)


def first_part(root: Path) -> Path:
    """Return the folder in which the first episode of a dataset is written, before it is moved to ``root``."""
    return beside(root, PART)


def _unknown(root: Path, meta: Path) -> list[Path]:
    """Return the files that no episode in ``meta`` refers to, and LeRobot's folders of temporary files."""
    known = {path for episode in read_episodes(check_recorded(root, meta)) for path in episode.paths}
    files = [path for folder in ("data", "videos") for path in (root / folder).rglob("*") if path.is_file()]
    folders = [
        path for path in root.iterdir() if path.is_dir() and (path.name == "images" or path.name.startswith("tmp"))
    ]
    return [path for path in files if path not in known] + folders


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP to the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, keep) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in received[:1]:
            signal.raise_signal(late)
