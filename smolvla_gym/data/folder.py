"""Folder of a dataset as a writer needs it: recorded by this package, made of plain files and folders, and movable.

A writer changes nothing outside such a folder.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from smolvla_gym.data.disk import PART
from smolvla_gym.data.info import DATA_PATH, META, VIDEO_PATH, DatasetInfo, read_info
from smolvla_gym.data.seeds import SEEDS, read_seeds
from smolvla_gym.data.spec import ROBOT_TYPE
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import is_link

REMOVED: Final = ".removed"
"""Folder inside a dataset for the files that a repair has removed from it: nothing is deleted."""


def beside(root: Path, suffix: str) -> Path:
    """Return the path of a hidden file or folder beside a dataset, such as ``.NAME.parol6.lock``.

    Args:
        root: Folder of the dataset.
        suffix: The end of the name, after ``.NAME.parol6``.

    Raises:
        DatasetError: The folder has no folder around it, as the root of a disk.
    """
    place = root if root.name not in ("", "..") else root.resolve()
    if not place.name:
        raise DatasetError(f"{root} cannot be the folder of a dataset. Take a folder inside of it.")
    return place.with_name(f".{place.name}.parol6{suffix}")


def check_recorded(root: Path, meta: Path) -> DatasetInfo:
    """Return the metadata of a dataset that this package recorded.

    Args:
        root: Folder of the dataset.
        meta: The folder to read instead of ``meta``.

    Raises:
        DatasetError: The metadata are broken, of another robot, or have no ``parol6.json``.
    """
    info = read_info(root, meta)
    if info.robot_type != ROBOT_TYPE:
        raise DatasetError(f"{meta} is of robot_type {info.robot_type!r:.60}, not {ROBOT_TYPE!r}.")
    if (info.data_path, info.video_path) != (DATA_PATH, VIDEO_PATH):
        raise DatasetError(
            f"{meta} names files as {info.data_path!r:.100} and {info.video_path!r:.100}, not as LeRobot."
        )
    if not (meta / SEEDS).is_file():
        raise DatasetError(f"{meta} has no {SEEDS}: the dataset was not recorded by `smolvla-gym record`.")
    read_seeds(root, meta)
    return info


def check_plain(root: Path) -> None:
    """Refuse a folder that contains anything but plain files and folders.

    A link or a mounted folder leads to files outside the dataset, which a writer must not change.

    Args:
        root: The folder; it may itself be reached through a link.

    Raises:
        DatasetError: The folder contains a link, a folder of another disk, a FIFO, a socket or a device.
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
                    found = "a link"
                elif not stat.S_ISDIR(status.st_mode):
                    found = "neither a file nor a folder"
                elif status.st_dev != device:
                    found = "a folder of another disk"
                else:
                    folders.append(path)
                    continue
                raise DatasetError(
                    f"{path.relative_to(root)} in {root} is {found}, and such a dataset is not changed. Copy the "
                    "dataset as plain files, for instance with `cp -rL`, and use the copy."
                )


def set_aside(root: Path, paths: Iterable[Path]) -> Path:
    """Move files and folders of a dataset into its folder ``.removed``, under their old names.

    Args:
        root: Folder of the dataset; :func:`check_plain` has accepted it.
        paths: Files and folders to move; those that do not exist are skipped.

    Returns:
        The new folder inside ``.removed``.
    """
    target = _new_folder(root / REMOVED)
    for path in paths:
        if path.exists():
            to = target / path.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
    return target


def set_aside_beside(root: Path, path: Path) -> Path:
    """Move a folder beside a dataset into ``.NAME.parol6.removed``.

    Args:
        root: Folder of the dataset.
        path: The folder to move.

    Returns:
        The new path of the folder.

    Raises:
        DatasetError: One of the two folders is a link.
    """
    folder = beside(root, REMOVED)
    for place in (path, folder):
        if is_link(place):
            raise DatasetError(f"{place} is a link, and this program makes a folder there. Remove the link.")
    target = _new_folder(folder) / path.name
    path.rename(target)
    return target


def _new_folder(parent: Path) -> Path:
    if os.path.lexists(parent) and (not parent.is_dir() or is_link(parent)):
        raise DatasetError(f"{parent} is not a folder, and a repair keeps removed files there. Move it away.")
    parent.mkdir(exist_ok=True)
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in range(1000):
        target = parent / (f"{name}-{number}" if number else name)
        try:
            target.mkdir()
        except FileExistsError:
            continue
        return target
    raise DatasetError(f"{parent} has no free name for another folder. Remove the folders that you do not need.")


def unshare(root: Path) -> None:
    """Replace each hard link directly in ``meta`` by a copy.

    These files change in place, and so would the other names of a hard link.

    Args:
        root: Folder of the dataset.
    """
    for path in sorted((root / META).iterdir()):
        if path.is_file() and path.stat().st_nlink > 1:
            part = path.with_name(path.name + PART)
            part.unlink(missing_ok=True)
            part.write_bytes(path.read_bytes())
            part.replace(path)
