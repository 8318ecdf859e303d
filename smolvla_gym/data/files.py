"""The files of a LeRobot dataset: which episode is in which, whether they are whole, and how they reach the disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import DatasetError

META: Final = "meta"
PART: Final = ".part"
"""At the end of a name: what is being written, and counts for nothing yet."""

_EPISODES: Final = "episodes"
_VIDEOS: Final = "videos/"


@dataclass(frozen=True)
class EpisodeFiles:
    """Where an episode is.

    Attributes:
        index: Its number in the dataset.
        length: Frames.
        data: The Parquet file with its rows.
        videos: For each camera's feature the file with its pictures.
        starts: For each camera's feature the time in s at which it begins there.
    """

    index: int
    length: int
    data: Path
    videos: dict[str, Path]
    starts: dict[str, float]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All its files."""
        return (self.data, *self.videos.values())


def read_info(root: Path) -> dict[str, Any]:
    """Returns ``meta/info.json`` of a dataset.

    Raises:
        DatasetError: There is no dataset in the folder.
    """
    try:
        info: dict[str, Any] = json.loads((root / META / "info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        trouble = "is missing" if isinstance(error, OSError) else "is broken"
        raise DatasetError(
            f"There is no LeRobot dataset in {root}: meta/info.json {trouble}. Take the folder of a dataset, or one "
            "that does not exist yet."
        ) from error
    return info


def read_episodes(root: Path, meta: Path, info: Mapping[str, Any]) -> list[EpisodeFiles]:
    """Returns where each episode is, in the order of their numbers.

    Args:
        root: Folder of the dataset.
        meta: Its folder ``meta``, or a copy of it.
        info: What is in ``info.json`` there.

    Raises:
        OSError: A file in ``meta/episodes`` is missing.
        ValueError: One is broken.
        KeyError: One lacks a column.
    """
    import pyarrow.parquet as pq

    episodes = []
    for file in (meta / _EPISODES).rglob("*.parquet"):
        wanted = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        for row in pq.read_table(file, columns=wanted).to_pylist():
            features = [name.split("/")[1] for name in row if name.startswith(_VIDEOS) and name.endswith("/file_index")]
            episodes.append(
                EpisodeFiles(
                    row["episode_index"],
                    row["length"],
                    root / info["data_path"].format(**_place(row, "data")),
                    {f: root / info["video_path"].format(video_key=f, **_place(row, _VIDEOS + f)) for f in features},
                    {f: row[f"{_VIDEOS}{f}/from_timestamp"] for f in features},
                )
            )
    return sorted(episodes, key=lambda episode: episode.index)


def _place(row: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {name: row[f"{group}/{name}"] for name in ("chunk_index", "file_index")}


def complete_episodes(root: Path, info: Mapping[str, Any]) -> tuple[list[EpisodeFiles], dict[Path, str]]:
    """Returns the episodes whose files are all whole, and for each file that is not what is wrong with it.

    Args:
        root: Folder of the dataset.
        info: Its ``meta/info.json``.

    Raises:
        OSError, ValueError, KeyError: As :func:`read_episodes`.
    """
    episodes = read_episodes(root, root / META, info)
    needed: Counter[Path] = Counter()
    for episode in episodes:
        for path in episode.paths:
            needed[path] += episode.length
    found = ((path, _problem(path, frames, float(info["fps"]))) for path, frames in sorted(needed.items()))
    problems = {path: problem for path, problem in found if problem is not None}
    return [episode for episode in episodes if problems.keys().isdisjoint(episode.paths)], problems


def _problem(path: Path, expected: int, fps: float) -> str | None:
    """Returns what is wrong with a file that is to have so many frames; nothing is decoded."""
    import av
    import pyarrow.parquet as pq

    if not path.is_file():
        return "is missing"
    if path.stat().st_size == 0:
        return "is empty"
    try:
        if path.suffix == ".parquet":
            frames = int(pq.read_metadata(path).num_rows)
        else:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                # Where the header does not count the frames it may say how long they take.
                frames = stream.frames or round(float((stream.duration or 0) * (stream.time_base or 0)) * fps)
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:  # IndexError: no stream
        return f"cannot be opened ({' '.join(str(error).split())[:100]})"
    return f"has {frames} frames, and the episodes in it have {expected}" if frames < expected else None


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, written through to the disk."""
    if path.is_dir():
        with contextlib.suppress(OSError):  # Windows and some network file systems cannot
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
    """Has the files below a folder written through to the disk, then all folders, so that a power loss takes none.

    Args:
        root: The folder.
        known: Files that are on the disk already and did not change since.
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
    """Copies a folder ``meta``, and has the copy written through to the disk.

    Files of episodes never change: where the file system can, they are linked, which costs neither space nor time.
    """
    linked: set[Path] = set()

    def copy(file: str, to: str) -> None:
        if Path(file).is_relative_to(source / _EPISODES):
            with contextlib.suppress(OSError):  # no links on FAT, for one
                os.link(file, to)
                linked.add(Path(to))
                return
        shutil.copyfile(file, to)

    shutil.copytree(source, target, copy_function=copy)
    sync_tree(target, linked)
