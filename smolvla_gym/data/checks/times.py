"""Check time stamps and frame numbers against the frame rate of the dataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smolvla_gym.data.checks.finding import ANOTHER_COPY, Finding, error, warning
from smolvla_gym.data.checks.rows import Rows
from smolvla_gym.data.files import RATE_TOLERANCE

_LATE = 0.5
"""Deviation of a time stamp from its frame number, as a share of the period, from which on it is irregular."""


def check_times(rows: Rows) -> Iterator[Finding]:
    """Find missing frames, and time stamps whose rate is not the one in ``info.json``."""
    fps = rows.info.fps
    for episode, where in rows.slices.items():
        frames = rows.frame_index[where]
        wrong = np.flatnonzero(frames != np.arange(len(frames)))
        if len(wrong):
            yield error(
                "missing_frames",
                f"row {wrong[0]} of the episode has frame_index {frames[wrong[0]]}",
                ANOTHER_COPY,
                episode=episode,
                frame=int(wrong[0]),
            )
        if rows.timestamps is None or len(frames) < 2:
            continue
        times = rows.timestamps[where]
        period = float(np.median(np.diff(times)))
        if not abs(period * fps - 1) <= RATE_TOLERANCE:  # also for NaN
            found = f"{1 / period:.4g} Hz" if period > 0 else f"steps of {period:g} s"
            yield error(
                "timestamps_rate",
                f"the time stamps are at {found}, and info.json says {fps} Hz",
                "correct fps in meta/info.json if it was edited, or record the episode again",
                episode=episode,
            )
            continue
        late = np.flatnonzero(~(np.abs(times - times[0] - frames / fps) <= _LATE / fps))
        if len(late):
            first = int(late[0])
            yield warning(
                "timestamps_irregular",
                f"the time stamp is {times[first]:.4g} s, and at {fps} Hz it should be {frames[first] / fps:.4g} s "
                f"({len(late)} such frames)",
                "check whether the recorder was late: the frames are not at equal intervals",
                episode=episode,
                frame=first,
            )
