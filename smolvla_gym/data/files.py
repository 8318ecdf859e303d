"""The files of a LeRobot dataset: which episode is in which, whether they are whole, and how they reach the disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.tables import Kind, open_parquet, read_columns, reading
from smolvla_gym.data.video import VideoHeader, read_header
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable

PART: Final = ".part"
"""At the end of a name: what is being written, and counts for nothing yet."""

_EPISODES: Final = "episodes"
_VIDEOS: Final = "videos/"
_MAX_FILES: Final = 1_000_000
_MAX_INDEX: Final = 10**9


@dataclass(frozen=True)
class EpisodeFiles:
    """Where an episode is.

    Attributes:
        index: Its number in the dataset.
        length: Frames.
        data: The Parquet file with its rows.
        videos: For each camera's feature the file with its images.
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


@dataclass(frozen=True)
class FileReport:
    """Which files of a dataset are whole, without a frame being decoded.

    Attributes:
        episodes: All episodes that the metadata names, in the order of their numbers.
        problems: For each file that is missing or cut off what is wrong with it.
        headers: For each video that can be opened its header.
    """

    episodes: tuple[EpisodeFiles, ...]
    problems: dict[Path, str]
    headers: dict[Path, VideoHeader]

    @property
    def complete(self) -> tuple[EpisodeFiles, ...]:
        """The episodes whose files are all whole."""
        return tuple(episode for episode in self.episodes if self.problems.keys().isdisjoint(episode.paths))


def read_episodes(info: DatasetInfo) -> list[EpisodeFiles]:
    """Return where each episode is, in the order of their numbers.

    Args:
        info: The dataset; its ``meta`` may be a copy.

    Raises:
        DatasetError: A file in ``meta/episodes`` is broken, or names an episode twice or a file outside the dataset.
    """
    folder = info.meta / _EPISODES
    with reading(folder):
        files = sorted(folder.rglob("*.parquet"))
    if len(files) > _MAX_FILES:
        raise DatasetError(f"{folder} has {len(files)} files, which is too many. Take another copy of the dataset.")
    episodes = [episode for file in files for episode in _read_episodes(info, file)]
    episodes.sort(key=lambda episode: episode.index)
    for one, other in itertools.pairwise(episodes):
        if one.index == other.index:
            raise DatasetError(f"{folder} has episode {one.index} twice. Take another copy of the dataset.")
    return episodes


def _read_episodes(info: DatasetInfo, file: Path) -> list[EpisodeFiles]:
    places = {"data": "data", **{feature: f"{_VIDEOS}{feature}" for feature in info.videos}}
    wanted: dict[str, Kind] = {"episode_index": "integer", "length": "integer"}
    for feature, place in places.items():
        wanted |= {f"{place}/chunk_index": "integer", f"{place}/file_index": "integer"}
        if feature != "data":
            wanted[f"{place}/from_timestamp"] = "number"
    columns = read_columns(file, wanted)
    for name, values in columns.items():
        least = 1 if name == "length" else 0
        if not ((values >= least) & (values <= _MAX_INDEX)).all():  # NaN is neither
            wrong = values[~((values >= least) & (values <= _MAX_INDEX))][0]
            raise DatasetError(f"{file} has {name} {wrong:g}. Take another copy of the dataset.")
    rows = {name: values.tolist() for name, values in columns.items()}
    return [
        EpisodeFiles(
            rows["episode_index"][i],
            rows["length"][i],
            info.data_file(rows["data/chunk_index"][i], rows["data/file_index"][i]),
            {
                name: info.video_file(name, rows[f"{place}/chunk_index"][i], rows[f"{place}/file_index"][i])
                for name, place in places.items()
                if name != "data"
            },
            {name: rows[f"{place}/from_timestamp"][i] for name, place in places.items() if name != "data"},
        )
        for i in range(len(rows["length"]))
    ]


def examine_files(info: DatasetInfo) -> FileReport:
    """Look at all files of a dataset; no frame is decoded.

    Raises:
        DatasetError: As :func:`read_episodes`.
    """
    episodes = read_episodes(info)
    needed: Counter[Path] = Counter()
    for episode in episodes:
        for path in episode.paths:
            needed[path] += episode.length
    problems: dict[Path, str] = {}
    headers: dict[Path, VideoHeader] = {}
    videos = {path for episode in episodes for path in episode.videos.values()}
    for path, expected in sorted(needed.items()):
        found = _rows(path) if path not in videos else _header(path, info.fps)
        if isinstance(found, VideoHeader):
            headers[path], found = found, found.frames
        if isinstance(found, str):
            problems[path] = found
        elif found < expected:
            problems[path] = f"has {found} frames, and the episodes in it have {expected}"
    return FileReport(tuple(episodes), problems, headers)


def _rows(path: Path) -> int | str:
    """Return the number of rows of a Parquet file, or what is wrong with it."""
    import pyarrow as pa

    if text := _unreadable(path):
        return text
    try:
        with contextlib.closing(open_parquet(path)) as file:
            return int(file.metadata.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"cannot be opened ({printable(error, 100)})"


def _header(path: Path, fps: float) -> VideoHeader | str:
    """Return the header of a video, or what is wrong with it."""
    import av

    if text := _unreadable(path):
        return text
    try:
        return read_header(path, fps)
    except (OSError, ValueError, OverflowError, av.FFmpegError) as error:
        return f"cannot be opened ({printable(error, 100)})"


def _unreadable(path: Path) -> str | None:
    if not path.is_file():
        return "is not a regular file" if path.exists() else "is missing"
    return "is empty" if path.stat().st_size == 0 else None


def read_sentences(info: DatasetInfo) -> dict[int, str]:
    """Return the sentence of each ``task_index`` from ``meta/tasks.parquet``.

    pandas writes the sentences as its index, with or without a name; other tools write an ordinary column.

    Raises:
        DatasetError: The file is missing or broken, or it cannot be told which column holds the sentences.
    """
    path = info.meta / "tasks.parquet"
    with reading(path), contextlib.closing(open_parquet(path)) as file:
        names = list(file.schema_arrow.names)
    others = [name for name in names if name != "task_index"]
    column = next((name for name in ("task", "__index_level_0__") if name in names), others[0] if others else None)
    if column is None or (column not in ("task", "__index_level_0__") and len(others) > 1):
        raise DatasetError(
            f"{path} has the columns {printable(names, 100)}, and the sentences are expected in one named task. "
            "Take another copy of the dataset."
        )
    columns = read_columns(path, {"task_index": "integer", column: "text"})
    numbers = columns["task_index"].tolist()
    if len(set(numbers)) != len(numbers):
        raise DatasetError(f"{path} has a task_index twice. Take another copy of the dataset.")
    return dict(zip(numbers, columns[column].tolist(), strict=True))


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
