"""Locks that keep two programs from writing to the same place.

The system releases a lock when the program ends in any way. On Windows nothing is locked.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import RecordingError, SmolVLAGymError

_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_BUSY: Final = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def lock_folder(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Lock a folder for this program.

    The lock is on the folder itself and needs no file. On network file systems without locks nothing is locked.

    Args:
        folder: An existing folder.
        shown: Path that the error names instead of it.

    Raises:
        RecordingError: Another program has locked the folder.
        OSError: The folder cannot be opened.
    """
    if _fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, _busy(shown or folder))
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def hold_lock(path: Path, busy: SmolVLAGymError, *, required: bool = False) -> Iterator[None]:
    """Lock a lock file, which is made in the beginning and removed in the end.

    Args:
        path: The lock file, in an existing folder.
        busy: Error where another program has the lock.
        required: Whether a file system without locks counts as locked; otherwise nothing is locked there.

    Raises:
        SmolVLAGymError: Another program has the lock, or the file is not a lock file; of the type of ``busy``.
    """
    if _fcntl is None:
        yield
        return
    with _open_lock(path, os.O_RDWR | os.O_CREAT, type(busy)) as handle:
        _lock(handle, path, busy, required=required)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Return True while a program has the lock of :func:`hold_lock`; no lock file is made."""
    if _fcntl is None:
        return False
    try:
        with _open_lock(path, os.O_RDONLY, RecordingError) as handle:
            _fcntl.flock(handle, _fcntl.LOCK_SH | _fcntl.LOCK_NB)
    except (FileNotFoundError, RecordingError):  # no lock, or another program's file
        return False
    except OSError:
        return True
    return False


def _lock(handle: int, path: Path, busy: SmolVLAGymError, *, required: bool = False) -> None:
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY and not required:
            return  # a file system without locks
        raise busy from error
    # A file that was removed or renamed after it was opened here excludes no other program.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), path.stat()):
            return
    raise busy


@contextlib.contextmanager
def _open_lock(path: Path, flags: int, kind: type[SmolVLAGymError]) -> Iterator[int]:
    """Open a lock file: an empty regular file, never through a link, and without waiting for the writer of a FIFO."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise kind(f"The lock file {path} cannot be opened ({error.strerror}). Remove it.") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size or status.st_nlink > 1:
            raise kind(f"{path} is not an empty file that serves as a lock. Remove it, or move it away.")
        yield handle
    finally:
        os.close(handle)


def _busy(shown: Path) -> RecordingError:
    return RecordingError(
        f"Another program is writing to {shown} at this moment. Wait until it has ended, or choose another --out."
    )
