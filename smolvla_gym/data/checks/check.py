"""Run all checks of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smolvla_gym.data.checks.cameras import check_cameras, count_frames
from smolvla_gym.data.checks.finding import Finding, finding
from smolvla_gym.data.checks.instructions import check_instructions, read_table
from smolvla_gym.data.checks.motion import check_jumps, check_motion, check_stuck
from smolvla_gym.data.checks.rows import read_rows
from smolvla_gym.data.checks.seeds import check_seeds
from smolvla_gym.data.checks.structure import check_counts, check_files, check_headers
from smolvla_gym.data.checks.times import check_frames, check_times
from smolvla_gym.data.checks.values import check_finite, check_limits, check_units
from smolvla_gym.data.files import examine_files
from smolvla_gym.data.info import read_info
from smolvla_gym.data.transaction import settled_meta
from smolvla_gym.errors import DatasetError


@dataclass(frozen=True)
class Report:
    """Result of the checks of a dataset.

    Attributes:
        root: Folder of the dataset.
        episodes: Number of episodes.
        frames: Number of frames.
        findings: The defects; empty: none was found.
    """

    root: Path
    episodes: int
    frames: int
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "dataset": str(self.root),
            "episodes": self.episodes,
            "frames": self.frames,
            "clean": not self.findings,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_dataset(
    root: str | Path, *, video: bool = True, progress: Callable[[int, int], None] = lambda done, total: None
) -> Report:
    """Find the defects of a LeRobot dataset v3 of any robot; nothing is changed in it.

    Args:
        root: Folder of the dataset.
        video: Whether to decode the videos, which dark and frozen cameras are found from.
        progress: Called with the numbers of decoded frames and of all frames, from time to time.

    Raises:
        MissingExtraError: The extra ``train`` is not installed.
    """
    root = Path(root)
    findings: list[Finding] = []
    try:
        meta, lost = settled_meta(root)
        if lost:
            findings.append(finding("cut_off", f"the dataset lost {lost}"))
        info = read_info(root, meta)
        report = examine_files(info)
    except DatasetError as problem:
        findings.append(finding("unreadable_dataset", str(problem)))
        return Report(root, 0, 0, tuple(findings))
    findings += check_files(info, report)
    findings += check_headers(info, report)
    rows, unreadable = read_rows(info, report)
    findings += unreadable
    instructions, unreadable = read_table(info)
    findings += unreadable
    findings += check_counts(info, report, None if instructions is None else len(instructions), rows)
    if instructions is not None:
        findings += check_instructions(instructions, rows)
    findings += check_seeds(info)
    if rows is not None:
        for check in (
            check_frames, check_times, check_finite, check_units, check_limits, check_jumps, check_motion, check_stuck,
        ):  # fmt: skip
            findings += check(rows)
    if video:
        total = count_frames(report)
        findings += check_cameras(report, info.fps, rows, lambda done: progress(done, total))
    return Report(root, len(report.episodes), sum(episode.length for episode in report.episodes), tuple(findings))
