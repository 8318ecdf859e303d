"""Check time stamps and frame numbers against the frame rate of the dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.files import RATE_TOLERANCE
from smolvla_gym.data.rows import Rows

_LATE = 0.5
"""Deviation of a time stamp from its frame number, as a share of the period, from which on it is irregular."""


def wrong_rate(steps: NDArray[np.float64], fps: int) -> str | None:
    """Return the rate of time stamps as text if it is not that of the dataset, else None.

    Args:
        steps: Times in s between one frame and the next.
        fps: Frame rate of the dataset in Hz.
    """
    period = float(np.median(steps))
    if abs(period * fps - 1) <= RATE_TOLERANCE:  # not for NaN
        return None
    return f"{1 / period:.4g} Hz" if period > 0 else f"steps of {period:g} s"


def check_frames(rows: Rows) -> Iterator[Finding]:
    """Find episodes whose rows are not the frames 0, 1, 2, ..."""
    for episode, where in rows.slices.items():
        frames = rows.frame_index[where]
        wrong = np.flatnonzero(frames != np.arange(len(frames)))
        if len(wrong):
            yield finding(
                "missing_frames",
                f"row {wrong[0]} of the episode has frame_index {frames[wrong[0]]}",
                episode,
                int(wrong[0]),
            )


def check_times(rows: Rows) -> Iterator[Finding]:
    """Find time stamps whose rate is not the one in ``info.json``, and irregular ones."""
    fps = rows.info.fps
    for episode, where in rows.slices.items():
        frames = rows.frame_index[where]
        if rows.timestamps is None or len(frames) < 2:
            continue
        times = rows.timestamps[where]
        if found := wrong_rate(np.diff(times), fps):
            yield finding("timestamps_rate", f"the time stamps are at {found}, and info.json says {fps} Hz", episode)
            continue
        late = np.flatnonzero(~(np.abs(times - times[0] - frames / fps) <= _LATE / fps))
        if len(late):
            first = int(late[0])
            yield finding(
                "timestamps_irregular",
                f"the time stamp is {times[first]:.4g} s, and at {fps} Hz it should be {frames[first] / fps:.4g} s "
                f"({len(late)} such frames)",
                episode,
                first,
            )
