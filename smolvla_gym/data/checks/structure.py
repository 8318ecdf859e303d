"""Check the files: missing or truncated files, and counts that contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from smolvla_gym.data.checks.finding import Finding, Severity, finding
from smolvla_gym.data.files import RATE_TOLERANCE, FileReport
from smolvla_gym.data.info import IMAGES, DatasetInfo
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.statistics import RECOMPUTE, STATS, read_stats
from smolvla_gym.errors import DatasetError

_STATS = (Severity.ERROR, RECOMPUTE)


def check_files(info: DatasetInfo, report: FileReport) -> Iterator[Finding]:
    """Find files that are missing or truncated."""
    for path, problem in report.problems.items():
        code = "missing_file" if problem == "is missing" else "truncated_file"
        episodes = [episode.index for episode in report.episodes if path in episode.paths]
        cameras = {
            name.removeprefix(IMAGES)
            for episode in report.episodes
            for name, file in episode.videos.items()
            if file == path
        }
        yield finding(
            code,
            f"{path.relative_to(info.root)} {problem}",
            episodes[0] if len(episodes) == 1 else None,
            camera=cameras.pop() if len(cameras) == 1 else None,
        )
    try:
        read_stats(info.meta)
    except FileNotFoundError:
        yield finding("missing_file", f"meta/{STATS} is missing", kind=_STATS)
    except DatasetError as problem:
        yield finding("truncated_file", str(problem), kind=_STATS)


def check_headers(info: DatasetInfo, report: FileReport) -> Iterator[Finding]:
    """Find videos whose size or rate is not the one in ``info.json``, and images that are not in videos."""
    for name, feature in info.features.items():
        camera = name.removeprefix(IMAGES)
        if feature.dtype == "image":
            yield finding(
                "images_in_parquet",
                f"the images of {name} are in Parquet files, and `smolvla-gym train` needs videos",
                camera=camera,
            )
        files = {episode.videos[name] for episode in report.episodes if name in episode.videos}
        for path in sorted(files & report.headers.keys()):
            header, shown, size = report.headers[path], path.relative_to(info.root), feature.image_size
            if (header.height, header.width) != size:
                yield finding(
                    "video_size",
                    f"{shown} has frames of {header.height}x{header.width}, and info.json says {size[0]}x{size[1]}",
                    camera=camera,
                )
            if header.fps is not None and abs(header.fps / info.fps - 1) > RATE_TOLERANCE:
                yield finding(
                    "video_rate",
                    f"{shown} has {header.fps:.4g} frames a second, and info.json says {info.fps} Hz: a policy would "
                    "act at the wrong speed",
                    camera=camera,
                )


def check_counts(
    info: DatasetInfo, report: FileReport, instructions: int | None, rows: Rows | None
) -> Iterator[Finding]:
    """Find counts in the metadata that contradict each other or the rows."""
    lengths = {episode.index: episode.length for episode in report.episodes}
    counts = [
        ("total_episodes", info.total_episodes, len(lengths), "meta/episodes names"),
        ("total_frames", info.total_frames, sum(lengths.values()), "the lengths in meta/episodes add up to"),
    ]
    if info.total_tasks is not None and instructions is not None:
        counts.append(("total_tasks", info.total_tasks, instructions, "meta/tasks.parquet has"))
    for name, stated, found, where in counts:
        if stated != found:
            yield finding("contradictory_counts", f"info.json has {name} {stated}, and {where} {found}")
    if not lengths:
        yield finding("no_episodes", "there is no episode")
    elif sorted(lengths) != list(range(len(lengths))):
        absent = next(i for i in range(len(lengths)) if i not in lengths)
        yield finding("contradictory_counts", f"meta/episodes lacks episode {absent}", absent)
    if rows is not None:
        broken = {episode.index for episode in report.episodes if episode.data in report.problems}
        yield from check_lengths(lengths, rows, broken)


def check_lengths(lengths: Mapping[int, int], rows: Rows, broken: Collection[int] = ()) -> Iterator[Finding]:
    """Find episodes with another number of rows than ``meta/episodes`` has frames.

    Args:
        lengths: Number of frames of each episode.
        rows: The rows.
        broken: Episodes some of whose rows could not be read.
    """
    for episode, length in lengths.items():
        found = rows.slices[episode].stop - rows.slices[episode].start if episode in rows.slices else 0
        if found != length and episode not in broken:
            yield finding(
                "contradictory_counts", f"meta/episodes has {length} frames, and there are {found} rows", episode
            )
    for episode in rows.slices.keys() - lengths.keys():
        yield finding("contradictory_counts", "its rows are of no episode in meta/episodes", episode)
