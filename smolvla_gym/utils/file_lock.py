"""Keep a second program from writing where one writes already."""

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
    """Hold a folder for this program alone.

    The folder itself is locked, so that no file has to be made for it, and the system releases it when the program
    ends in whatever way. On Windows and on network file systems without locks nothing is locked.

    Args:
        folder: It has to exist.
        shown: What the error names in its place.

    Raises:
        RecordingError: Another program holds it.
        OSError: It cannot be opened.
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


@contextlib.contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Hold the name of a file, which need not exist yet, by locking ``.<name>.lock`` beside it; see above.

    Args:
        file: Its folder has to exist.

    Raises:
        RecordingError: Another program holds it.
        OSError: The lock's file cannot be made.
    """
    if _fcntl is None:
        yield
        return
    path = file.with_name(f".{file.name}.lock")
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle, path, file)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, shown: Path) -> None:
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _BUSY:
            return  # a file system that knows no locks
        raise _busy(shown) from error
    # It may have been removed or renamed after it was opened here: what is held then keeps nobody out.
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), path.stat()):
            return
    raise _busy(shown)


def _busy(shown: Path) -> RecordingError:
    return RecordingError(
        f"Another program is writing to {shown} at this moment. Wait until it has ended, or choose another --out."
    )
