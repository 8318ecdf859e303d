"""Locks that keep two programs from writing to the same place."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import RecordingError

_fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_BUSY: Final = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def lock_folder(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Lock a folder for this program.

    The lock is on the folder itself and needs no file. The system releases it when the program ends in any way. On
    Windows and on network file systems without locks nothing is locked.

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
        _lock(handle, folder, shown or folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, shown: Path) -> None:
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            return  # a file system without locks
        raise _busy(shown) from error
    # A file that was removed or renamed after it was opened here excludes no other program.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), path.stat()):
            return
    raise _busy(shown)


def _busy(shown: Path) -> RecordingError:
    return RecordingError(
        f"Another program is writing to {shown} at this moment. Wait until it has ended, or choose another --out."
    )
