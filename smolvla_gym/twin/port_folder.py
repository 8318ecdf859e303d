"""The folder of a virtual port; the twin removes it, and the next twin removes those of twins that were killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "parol6-twin-"

LINK: Final = "ttyPAROL6"
"""The only file in it."""


class PortFolder:
    """A new folder among the temporary ones.

    It is locked as long as its owner lives: the system releases a lock however a process ends, and, unlike the id of a
    process, a lock is valid across containers that share the folder.

    Attributes:
        link: Path of the port.
    """

    def __init__(self) -> None:
        """Make the folder, and remove those whose owners are dead."""
        _sweep()
        self._lock: int | None = None
        while self._lock is None:  # Another twin may have swept it before it was locked.
            self._path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._lock = _lock(self._path)
        self.link: Path = self._path / LINK

    def close(self) -> None:
        """Remove it; doing it twice does no harm."""
        if self._lock is not None:
            _remove(self._path)
            os.close(self._lock)
            self._lock = None


def _sweep() -> None:
    for path in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        lock = _lock(path)
        if lock is not None:
            _remove(path)
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a folder; return None where that is impossible, or the folder is gone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
    return None


def _remove(path: Path) -> None:
    # Other files stay.
    with contextlib.suppress(OSError):
        (path / LINK).unlink(missing_ok=True)
        path.rmdir()
