"""Lock of a dataset: one program at a time writes to it."""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smolvla_gym.data.folder import beside
from smolvla_gym.errors import DatasetError

_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """Keep other programs from writing to a dataset, and from repairing it while an episode is being written.

    The lock is on the file ``.NAME.parol6.lock`` beside the dataset. The system releases it when the program ends,
    also when it is killed. On Windows nothing is locked.

    Args:
        root: Folder of the dataset; it need not exist.

    Raises:
        DatasetError: Another program has the lock, or its file is not a lock file.
    """
    if _fcntl is None:
        yield
        return
    path = beside(root, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_lock(path, os.O_RDWR | os.O_CREAT) as handle:
        try:
            _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            # The previous owner may have removed the file after it was opened here: a lock on it excludes no program.
            if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
                raise BlockingIOError
        except OSError as error:
            raise busy(root) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_locked(root: Path) -> bool:
    """Return True while a program writes to a dataset; no lock file is made."""
    if _fcntl is None:
        return False
    try:
        with _open_lock(beside(root, ".lock"), os.O_RDONLY) as handle:
            _fcntl.flock(handle, _fcntl.LOCK_SH | _fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except DatasetError:
        return False  # another program's file
    except OSError:
        return True
    return False


def busy(root: Path) -> DatasetError:
    """Return the error to raise while another program writes to a dataset."""
    return DatasetError(f"Another program is writing to {root}. Try again when it has finished.")


@contextlib.contextmanager
def _open_lock(path: Path, flags: int) -> Iterator[int]:
    """Open a lock file: an empty regular file, never through a link, and without waiting for the writer of a FIFO."""
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
