"""Files of a LeRobot dataset: which episode is in which file, and which files are complete."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smolvla_gym.data.info import DatasetInfo
from smolvla_gym.data.tables import Kind, open_parquet, read_columns, reading
from smolvla_gym.data.video import VideoHeader, read_header
from smolvla_gym.errors import DatasetError
from smolvla_gym.utils.untrusted import printable

RATE_TOLERANCE: Final = 0.02
"""Relative deviation of a measured frame rate from ``info.json`` that is accepted."""

_EPISODES: Final = "episodes"
_VIDEOS: Final = "videos/"
_MAX_FILES: Final = 1_000_000
_MAX_INDEX: Final = 10**9


@dataclass(frozen=True)
class EpisodeFiles:
    """Files of an episode.

    Attributes:
        index: Number of the episode in the dataset.
        length: Number of frames.
        data: The Parquet file with the rows.
        videos: For each camera's feature the file with the images.
        starts: For each camera's feature the time in s at which the episode starts in that file.
    """

    index: int
    length: int
    data: Path
    videos: dict[str, Path]
    starts: dict[str, float]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of the episode."""
        return (self.data, *self.videos.values())


@dataclass(frozen=True)
class FileReport:
    """State of the files of a dataset; no frame was decoded.

    Attributes:
        episodes: All episodes in the metadata, in the order of their numbers.
        problems: For each file that is missing or truncated a sentence part that says what is wrong.
        headers: Headers of the videos that can be opened.
    """

    episodes: tuple[EpisodeFiles, ...]
    problems: dict[Path, str]
    headers: dict[Path, VideoHeader]

    @property
    def complete(self) -> tuple[EpisodeFiles, ...]:
        """The episodes all of whose files are complete."""
        return tuple(episode for episode in self.episodes if self.problems.keys().isdisjoint(episode.paths))


def read_episodes(info: DatasetInfo) -> list[EpisodeFiles]:
    """Return the files of each episode, in the order of their numbers.

    Args:
        info: The dataset; its ``meta`` may be a copy.

    Raises:
        DatasetError: A file in ``meta/episodes`` is broken, or has an episode twice or a file outside the dataset.
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
    """Check all files of a dataset; no frame is decoded.

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
    """Return the number of rows of a Parquet file, or a sentence part that says what is wrong with it."""
    import pyarrow as pa

    if text := _unreadable(path):
        return text
    try:
        with contextlib.closing(open_parquet(path)) as file:
            return int(file.metadata.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"cannot be opened ({printable(error, 100)})"


def _header(path: Path, fps: float) -> VideoHeader | str:
    """Return the header of a video, or a sentence part that says what is wrong with it."""
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
