"""Check the images: dark, frozen, or undecodable. Of each decoded frame only mean grey values of blocks are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.checks.motion import first_still, smallest_motion
from smolvla_gym.data.files import EpisodeFiles, FileReport
from smolvla_gym.data.info import IMAGES
from smolvla_gym.data.rows import Rows
from smolvla_gym.data.spec import STATE
from smolvla_gym.data.video import read_frames
from smolvla_gym.utils.untrusted import printable

_BLOCKS = 8
"""Blocks of an image in each direction."""

_DARK = 12.0
"""Mean grey value from 0 to 255 below which an image is dark."""

_DARK_SHARE = 0.9
"""Share of dark frames above which an episode is dark."""

_FROZEN = 3.0
"""Change of the grey values of every block up to which an image is frozen; compression changes them a little."""

_FROZEN_S = 1.0
"""Time in s without a change after which a camera is frozen."""

_MOTIONS = 5.0
"""Motion of the arm meanwhile, as a multiple of the smallest motion."""

_EVERY = 50
"""Frames between two reports of progress."""


def count_frames(report: FileReport) -> int:
    """Return the number of frames that :func:`check_cameras` decodes."""
    files = {path for episode in report.episodes for path in episode.videos.values()}
    return sum(report.headers[path].frames for path in files & report.headers.keys() - report.problems.keys())


def check_cameras(
    report: FileReport, fps: int, rows: Rows | None, progress: Callable[[int], None] = lambda frames: None
) -> Iterator[Finding]:
    """Find dark and frozen cameras, and videos that cannot be decoded.

    Args:
        report: The files.
        fps: Frame rate in Hz.
        rows: The states, which show whether the arm moved while an image did not change; None: unknown.
        progress: Called with the number of decoded frames, from time to time.
    """
    import av

    done = 0
    for name in sorted({name for episode in report.episodes for name in episode.videos}):
        camera = name.removeprefix(IMAGES)
        by_file: dict[Path, list[EpisodeFiles]] = {}
        for episode in report.episodes:
            by_file.setdefault(episode.videos[name], []).append(episode)
        for path, episodes in by_file.items():
            if path in report.problems or path not in report.headers:
                continue
            blocks: list[NDArray[np.float32]] = []
            try:
                for frame in read_frames(path, "gray"):
                    blocks.append(_blocks(frame))
                    done += 1
                    if done % _EVERY == 0:
                        progress(done)
            except (OSError, ValueError, av.FFmpegError) as problem:
                yield finding(
                    "undecodable_video",
                    f"{path.name} cannot be decoded after {len(blocks)} frames ({printable(problem, 100)})",
                    _episode_at(episodes, name, fps, len(blocks)),
                    camera=camera,
                )
            for episode in episodes:
                first = round(episode.starts[name] * fps)
                frames = blocks[first : first + episode.length]
                if len(frames) < episode.length:
                    yield finding(
                        "truncated_file",
                        f"the video has {len(frames)} of its {episode.length} frames",
                        episode.index,
                        camera=camera,
                    )
                elif frames:
                    yield from _check_episode(np.stack(frames), episode.index, camera, fps, rows)
    progress(done)


def _episode_at(episodes: list[EpisodeFiles], name: str, fps: int, frame: int) -> int | None:
    for episode in episodes:
        first = round(episode.starts[name] * fps)
        if first <= frame < first + episode.length:
            return episode.index
    return None


def _blocks(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean grey values of the blocks of an image, shape (blocks, blocks)."""
    down, across = (np.linspace(0, n, min(_BLOCKS, n) + 1).astype(int)[:-1] for n in frame.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(frame.astype(np.uint32), down, axis=0), across, axis=1)
    heights, widths = (np.diff(np.append(starts, n)) for starts, n in zip((down, across), frame.shape, strict=False))
    return (sums / np.outer(heights, widths)).astype(np.float32)


def _check_episode(
    blocks: NDArray[np.float32], episode: int, camera: str, fps: int, rows: Rows | None
) -> Iterator[Finding]:
    brightness = blocks.mean(axis=(1, 2))
    dark = np.flatnonzero(brightness < _DARK)
    if len(dark) > _DARK_SHARE * len(brightness):
        yield finding(
            "dark_camera",
            f"{len(dark)} of {len(brightness)} images are dark (mean grey value {float(brightness.mean()):.3g} of 255)",
            episode,
            camera=camera,
        )
    flat = blocks.reshape(len(blocks), -1)
    if run := first_still(flat, _FROZEN, round(_FROZEN_S * fps), lambda run: _moves(rows, episode, run)):
        yield finding(
            "frozen_camera",
            f"the image does not change for {(run.stop - run.start) / fps:.2g} s while the arm moves",
            episode,
            run.start,
            camera=camera,
        )


def _moves(rows: Rows | None, episode: int, run: slice) -> bool:
    """Return True if the arm moves in these frames, or if that is unknown."""
    if rows is None or STATE not in rows.vectors or episode not in rows.slices:
        return True
    values = rows.vectors[STATE][rows.slices[episode]][run]
    if not len(values) or not np.isfinite(values).all():
        return True
    return bool((np.ptp(values, axis=0) > _MOTIONS * smallest_motion(rows, STATE)).any())
