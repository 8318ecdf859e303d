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
        places: For ``"data"`` and each camera's feature the numbers of the chunk and of the file.
    """

    index: int
    length: int
    data: Path
    videos: dict[str, Path]
    starts: dict[str, float]
    places: dict[str, tuple[int, int]]

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
    columns_of = {"data": "data", **{feature: f"{_VIDEOS}{feature}" for feature in info.videos}}
    wanted: dict[str, Kind] = {"episode_index": "integer", "length": "integer"}
    wanted |= {f"{column}/{number}_index": "integer" for column in columns_of.values() for number in ("chunk", "file")}
    wanted |= {f"{_VIDEOS}{feature}/from_timestamp": "number" for feature in info.videos}
    columns = read_columns(file, wanted)
    for name, values in columns.items():
        least = 1 if name == "length" else 0
        if not ((values >= least) & (values <= _MAX_INDEX)).all():  # NaN is neither
            wrong = values[~((values >= least) & (values <= _MAX_INDEX))][0]
            raise DatasetError(f"{file} has {name} {wrong:g}. Take another copy of the dataset.")
    rows = {name: values.tolist() for name, values in columns.items()}
    episodes = []
    for i in range(len(rows["length"])):
        places = {
            name: (rows[f"{column}/chunk_index"][i], rows[f"{column}/file_index"][i])
            for name, column in columns_of.items()
        }
        videos = {name: info.video_file(name, *places[name]) for name in info.videos}
        starts = {name: rows[f"{_VIDEOS}{name}/from_timestamp"][i] for name in info.videos}
        data = info.data_file(*places["data"])
        episodes.append(EpisodeFiles(rows["episode_index"][i], rows["length"][i], data, videos, starts, places))
    return episodes


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
        found = _measure(path, info.fps if path in videos else None)
        if isinstance(found, VideoHeader):
            headers[path], found = found, found.frames
        if isinstance(found, str):
            problems[path] = found
        elif found < expected:
            problems[path] = f"has {found} frames, and the episodes in it have {expected}"
    return FileReport(tuple(episodes), problems, headers)


def _measure(path: Path, fps: int | None) -> VideoHeader | int | str:
    """Return the header of a video, or the number of rows of a Parquet file, whose ``fps`` is None.

    A sentence part says what is wrong with a file that cannot be opened.
    """
    import av
    import pyarrow as pa

    if text := _unreadable(path):
        return text
    try:
        if fps is not None:
            return read_header(path, fps)
        with contextlib.closing(open_parquet(path)) as file:
            return int(file.metadata.num_rows)
    except (OSError, ValueError, OverflowError, pa.ArrowException, av.FFmpegError) as error:
        return f"cannot be opened ({printable(error, 100)})"


def _unreadable(path: Path) -> str | None:
    if not path.is_file():
        return "is not a regular file" if path.exists() else "is missing"
    return "is empty" if path.stat().st_size == 0 else None
