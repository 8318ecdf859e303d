"""Lock of a dataset: one program at a time writes to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from smolvla_gym.data.folder import beside
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.file_lock import hold_lock, is_held


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
    path = beside(root, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path, busy(root), required=True):
        yield


def is_locked(root: Path) -> bool:
    """Return True while a program writes to a dataset; no lock file is made."""
    return is_held(beside(root, ".lock"))


def busy(root: Path) -> DatasetError:
    """Return the error to raise while another program writes to a dataset."""
    return DatasetError(f"Another program is writing to {root}. Try again when it has finished.")
