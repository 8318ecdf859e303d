"""Write files and folders through to the disk, so that a power loss takes nothing that counts as recorded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final

PART: Final = ".part"
"""Suffix of a file or folder that is being written and counts for nothing yet."""


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # not possible on Windows and on some network file systems
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path, known: Collection[Path] = ()) -> None:
    """Write the files below a folder through to the disk, then all folders.

    Args:
        root: The folder.
        known: Files that are on the disk already and have not changed since.
    """
    folders = [root]
    for path in root.rglob("*"):
        if path.is_dir():
            folders.append(path)
        elif path not in known:
            sync(path)
    for folder in reversed(folders):
        sync(folder)


def copy_meta(source: Path, target: Path) -> None:
    """Copy a folder ``meta``, and write the copy through to the disk.

    The files in ``meta/episodes`` never change. They are hard links where the file system supports them, which takes
    neither space nor time.

    Args:
        source: The folder.
        target: The copy; it must not exist.
    """
    linked: set[Path] = set()

    def copy(file: str, to: str) -> None:
        if Path(file).is_relative_to(source / "episodes"):
            with contextlib.suppress(OSError):  # not possible on FAT, for example
                os.link(file, to)
                linked.add(Path(to))
                return
        shutil.copyfile(file, to)

    shutil.copytree(source, target, copy_function=copy)
    sync_tree(target, linked)
