"""What a writer may touch: plain files and folders inside a dataset that this package recorded, and nothing else."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from smolvla_gym.data.files import PART
from smolvla_gym.data.info import DATA_PATH, META, VIDEO_PATH, DatasetInfo, read_info
from smolvla_gym.data.seeds import SEEDS, read_seeds
from smolvla_gym.data.spec import ROBOT_TYPE
from smolvla_gym.errors import DatasetError

REMOVED: Final = ".removed"
"""Folder inside a dataset for what a repair has taken out of it: nothing is deleted."""


def beside(root: Path, suffix: str) -> Path:
    """Return the path of a hidden file or folder beside a dataset, such as ``.NAME.parol6.lock``.

    Args:
        root: Folder of the dataset.
        suffix: What follows ``.NAME.parol6``.

    Raises:
        DatasetError: There is nothing beside it, as with the root of a disk.
    """
    place = root if root.name not in ("", "..") else root.resolve()
    if not place.name:
        raise DatasetError(f"{root} cannot be the folder of a dataset. Take a folder inside of it.")
    return place.with_name(f".{place.name}.parol6{suffix}")


def check_ours(root: Path, meta: Path) -> DatasetInfo:
    """Return the metadata of a dataset that this package recorded.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: It is broken, of another robot, or has no ``parol6.json``.
    """
    info = read_info(root, meta)
    if info.robot_type != ROBOT_TYPE:
        raise DatasetError(f"{meta} is of robot_type {info.robot_type!r:.60}, not {ROBOT_TYPE!r}.")
    if (info.data_path, info.video_path) != (DATA_PATH, VIDEO_PATH):
        raise DatasetError(
            f"{meta} names files as {info.data_path!r:.100} and {info.video_path!r:.100}, not as LeRobot."
        )
    if not (meta / SEEDS).is_file():
        raise DatasetError(f"{meta} has no {SEEDS}: `smolvla-gym record` did not make it.")
    read_seeds(root, meta)
    return info


def check_plain(root: Path) -> None:
    """Refuse a folder that is not made of plain files and folders alone.

    A link or a mounted folder leads elsewhere, and what a program writes or removes there is somebody else's.

    Args:
        root: The folder; it may itself be reached through a link.

    Raises:
        DatasetError: There is a link, a folder of another disk, a FIFO, a socket or a device in it.
    """
    device = root.stat().st_dev
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    continue
                if entry.is_symlink() or entry.is_junction():
                    what = "a link"
                elif not stat.S_ISDIR(status.st_mode):
                    what = "neither a file nor a folder"
                elif status.st_dev != device:
                    what = "a folder of another disk"
                else:
                    folders.append(path)
                    continue
                raise DatasetError(
                    f"{path.relative_to(root)} in {root} is {what}: nothing is written to such a dataset or removed "
                    "from it. Copy it as plain files, for instance with `cp -rL`, and take the copy."
                )


def set_aside(root: Path, paths: Iterable[Path]) -> Path:
    """Move files and folders of a dataset into its folder ``.removed``, under their old names.

    Args:
        root: Folder of the dataset; :func:`check_plain` has accepted it.
        paths: What to move; what does not exist is left out.

    Returns:
        The new folder that they are in.
    """
    target = _new_folder(root / REMOVED)
    for path in paths:
        if path.exists():
            to = target / path.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
    return target


def set_aside_beside(root: Path, path: Path) -> Path:
    """Move a folder beside a dataset away, into ``.NAME.parol6.removed`` beside it; returns where it is then.

    Raises:
        DatasetError: It is a link.
    """
    folder = beside(root, REMOVED)
    for place in (path, folder):
        if place.is_symlink() or place.is_junction():
            raise DatasetError(f"{place} is a link and not what this program has left there. Remove the link.")
    target = _new_folder(folder) / path.name
    path.rename(target)
    return target


def _new_folder(parent: Path) -> Path:
    if os.path.lexists(parent) and (not parent.is_dir() or parent.is_symlink() or parent.is_junction()):
        raise DatasetError(f"{parent} is no folder, and what is repaired is kept there. Move it away.")
    parent.mkdir(exist_ok=True)
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1000):
        target = parent / (f"{name}-{number}" if number else name)
        try:
            target.mkdir()
        except FileExistsError:
            continue
        return target
    raise DatasetError(f"{parent} has no room for another folder. Remove it, if you need nothing of it.")


def unshare(root: Path) -> None:
    """Give the files directly in ``meta``, which change in place, a copy of their own where other names share them."""
    for path in sorted((root / META).iterdir()):
        if path.is_file() and path.stat().st_nlink > 1:
            part = path.with_name(path.name + PART)
            part.unlink(missing_ok=True)
            part.write_bytes(path.read_bytes())
            part.replace(path)
