"""What is written to a dataset is there as a whole or not at all.

Before an episode is written the folder ``meta`` is copied; LeRobot then writes new files and changes only those in
``meta``. A copy that is found later means that the writing was cut off. A writer then puts the copy back and moves the
files that it does not know into ``.removed``; a reader reads the copy and changes nothing. What one step relies on is
written through to the disk before it, for a power loss.

Nothing is written to a folder, or moved in it, unless it is a dataset that this package recorded and made of plain
files and folders alone: see :mod:`smolvla_gym.data.folder`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import stat
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from smolvla_gym.data.files import PART, copy_meta, read_episodes, sync, sync_tree
from smolvla_gym.data.folder import beside, check_ours, check_plain, set_aside, set_aside_beside, unshare
from smolvla_gym.data.info import META
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.signals import SIGNALS

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_COPY: Final = ".meta_before"
_LAST: Final = "the last episode, which was being written when the program was killed"


def repair(root: Path) -> str | None:
    """Make a dataset whole again whose writing was cut off; what is taken out of it is moved to ``.removed``.

    Args:
        root: Its folder; it need not exist.

    Returns:
        What was lost and where its files are now, in words; None: nothing.

    Raises:
        DatasetError: Another program is writing an episode at this moment; or the folder is no dataset that this
            package recorded, or holds a link. Then nothing was changed.
    """
    if not _is_cut_off(root):
        return None
    if root.exists():
        _check_repairable(root)
    with lock(root):
        return repair_locked(root)


def settled_meta(root: Path) -> tuple[Path, str | None]:
    """Return the metadata that a reader takes; nothing is changed.

    Args:
        root: Folder of a dataset.

    Returns:
        The folder to read instead of ``meta`` where the writing of an episode was cut off, and what was lost, in words;
        otherwise ``meta`` and None.

    Raises:
        DatasetError: Another program is writing an episode at this moment.
    """
    copy = root / _COPY
    if not _is_folder(copy):
        return root / META, None
    try:
        check_ours(root, copy)
    except DatasetError:
        return root / META, None  # it means nothing in a dataset of other programs
    if _is_locked(root):
        raise _busy(root)
    return copy, _LAST


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not path.is_junction()


def _is_cut_off(root: Path) -> bool:
    """Tells whether an episode is being written, or was when the program was killed."""
    if not root.exists():
        return os.path.lexists(first_part(root))
    return any(os.path.lexists(root / name) for name in (_COPY, _COPY + PART))


def _check_repairable(root: Path) -> None:
    """Makes sure that a folder with a copy of ``meta`` is a dataset of ours, made of plain files alone."""
    copy = root / _COPY
    try:
        check_plain(root)
        check_ours(root, copy if copy.is_dir() else root / META)
    except DatasetError as error:
        name = _COPY if os.path.lexists(copy) else _COPY + PART
        raise DatasetError(
            f"{root} holds {name}, as a program leaves it that was killed while it wrote an episode, but cannot be "
            f"repaired, and nothing was changed: {error}"
        ) from error


def repair_locked(root: Path) -> str | None:
    """Does what :func:`repair` does; for whoever has the :func:`lock`."""
    part, copy, spare = first_part(root), root / _COPY, root / (_COPY + PART)
    if not root.exists():
        if not os.path.lexists(part):
            return None
        target = set_aside_beside(root, part)
        return f"its first episode, which was being written when the program was killed; its files are in {target}"
    if not _is_cut_off(root):
        return None
    _check_repairable(root)
    if not copy.is_dir():
        set_aside(root, [spare])  # a copy of what is there, and nobody has begun to write
        return None
    # The unknown files first: once the copy is back, nobody would look for them again.
    target = set_aside(root, [spare, *_unknown(root, copy), root / META])
    copy.rename(root / META)
    sync(root)
    return f"{_LAST}; its files are in {target}"


@contextlib.contextmanager
def transaction(root: Path) -> Iterator[None]:
    """Takes back what the block wrote unless it comes to its end; for whoever has the :func:`lock`.

    The folder is one that :func:`smolvla_gym.data.folder.check_plain` has accepted.
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
        _take_back(root, known)
        raise
    copy.rename(part)  # from here on the new state is the one that counts
    sync(root)
    shutil.rmtree(part)


def _take_back(root: Path, known: Collection[Path]) -> None:
    """Removes what this program wrote since ``known`` was listed, and puts the copy of ``meta`` back."""
    for path in sorted(root.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path in known or path == root / META or path.is_relative_to(root / META):
            continue
        if _is_folder(path):
            path.rmdir()
        else:
            path.unlink()
    shutil.rmtree(root / META)
    (root / _COPY).rename(root / META)


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
    path = beside(root, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_lock(path, os.O_RDWR | os.O_CREAT) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed the file after we opened it: then what we hold keeps nobody out.
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                raise BlockingIOError
        except OSError as error:
            raise _busy(root) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_lock(path: Path, flags: int) -> Iterator[int]:
    """Opens a lock file: an empty one, never through a link, and without waiting for the writer of a FIFO."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DatasetError(f"The lock file {path} cannot be opened ({error.strerror}). Remove it.") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size or status.st_nlink > 1:
            raise DatasetError(f"{path} is not the empty file that locks the dataset. Remove it, or move it away.")
        yield handle
    finally:
        os.close(handle)


def _is_locked(root: Path) -> bool:
    """Tells whether a program writes to a dataset; the lock file is not made for it."""
    if fcntl is None:
        return False
    try:
        with _open_lock(beside(root, ".lock"), os.O_RDONLY) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except DatasetError:
        return False  # no lock of ours
    except OSError:
        return True
    return False


def _busy(root: Path) -> DatasetError:
    return DatasetError(f"An episode is being written to {root} at this moment. Try again when that is done.")


def first_part(root: Path) -> Path:
    """Returns where the first episode is written; a name that nobody else's folder has, since it is moved away."""
    return beside(root, PART)


def _unknown(root: Path, meta: Path) -> list[Path]:
    """Returns the files that no episode in ``meta`` refers to, and LeRobot's folders for what is not complete."""
    known = {path for episode in read_episodes(check_ours(root, meta)) for path in episode.paths}
    files = [
        path for folder in ("data", "videos") for path in (root / folder).rglob("*") if path.is_file()
    ]  # fmt: skip
    folders = [
        path for path in root.iterdir() if path.is_dir() and (path.name == "images" or path.name.startswith("tmp"))
    ]
    return [path for path in files if path not in known] + folders


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
