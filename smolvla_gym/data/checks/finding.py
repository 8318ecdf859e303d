"""A defect of a dataset: its kind, its place, and the advice to give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from smolvla_gym.errors import DatasetError


class Severity(StrEnum):
    """Severity of a defect."""

    ERROR = "error"
    """Training fails, or the policy learns something that was not demonstrated."""
    WARNING = "warning"
    """The defect may be intended; check it."""


@dataclass(frozen=True)
class Finding:
    """A defect of a dataset.

    Attributes:
        code: Name of the kind of defect, such as ``frozen_camera``.
        severity: Severity.
        message: The defect, with the found and the expected values.
        advice: What to do about it.
        episode: The episode; None: the whole dataset.
        frame: The first frame in that episode; None: the whole episode.
        camera: The camera; None: no single camera.
    """

    code: str
    severity: Severity
    message: str
    advice: str
    episode: int | None = None
    frame: int | None = None
    camera: str | None = None

    @property
    def where(self) -> str:
        """The place as text, such as ``episode 3, frame 12, camera wrist``; empty for the whole dataset."""
        places = {"episode": self.episode, "frame": self.frame, "camera": self.camera}
        return ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {**asdict(self), "severity": self.severity.value}


def refuse_errors(root: Path, findings: Iterable[Finding]) -> None:
    """Raise the first finding of severity ``ERROR``.

    Args:
        root: Folder of the dataset.
        findings: The findings.

    Raises:
        DatasetError: There is such a finding.
    """
    for found in findings:
        if found.severity is Severity.ERROR:
            where = f", {found.where}" if found.where else ""
            raise DatasetError(f"In {root}{where}: {found.message}; {found.advice}.")


_E, _W = Severity.ERROR, Severity.WARNING
_OTHER_COPY: Final = "take another copy of the dataset"
_REMOVE: Final = "remove it with lerobot-edit-dataset --operation.type delete_episodes"
_OTHER_FILE: Final = (
    "take another copy of the file, or remove its episodes with lerobot-edit-dataset --operation.type delete_episodes"
)
_NAME: Final = "name the task with lerobot-edit-dataset --operation.type modify_tasks"
_CONVERT: Final = (
    "convert it with smolvla-gym dataset convert --units degrees: joint angles are in rad, the gripper from 0 to 1"
)

KINDS: Final[Mapping[str, tuple[Severity, str]]] = {
    "action_limits": (_E, "clip the actions when they are recorded, or remove the episode"),
    "contradictory_counts": (_E, _OTHER_COPY),
    "cut_off": (_W, "record into it again, which repairs it, or use it as it is"),
    "dark_camera": (_W, "check that the lens is not covered and the exposure long enough"),
    "does_nothing": (_W, f"check the episode, or {_REMOVE}"),
    "duplicate_sentence": (_W, _NAME),
    "empty_sentence": (_E, _NAME),
    "frozen_camera": (_W, f"check the camera's cable and driver; check the episode, or {_REMOVE}"),
    "images_in_parquet": (_W, "convert them with lerobot-edit-dataset --operation.type convert_image_to_video"),
    "jump": (_W, f"check the episode, or {_REMOVE}"),
    "missing_column": (_E, _OTHER_COPY),
    "missing_file": (_E, _OTHER_FILE),
    "missing_frames": (_E, _OTHER_COPY),
    "mixed_units": (_E, _CONVERT),
    "no_plain_files": (_W, "reading works; to record into it or repair it, take a copy of plain files (`cp -rL`)"),
    "no_episodes": (_E, "record some episodes first"),
    "not_finite": (_E, f"check the episode, or {_REMOVE}"),
    "seeds_repeated": (_W, "record with other seeds, unless the repetition is intended"),
    "seeds_unknown": (_W, "evaluate with seeds far from those that were recorded; a replay is not possible"),
    "stuck_joint": (_W, "check that the joint is free and its motor on, and record the episode again"),
    "task_order": (_E, _OTHER_COPY),
    "tasks_without_index": (_E, "write the table with pandas, with the instructions as its index"),
    "timestamps_irregular": (_W, "check whether the recorder was late: the frames are not at equal intervals"),
    "timestamps_rate": (_E, "correct fps in meta/info.json if it was edited, or record the episode again"),
    "truncated_file": (_E, _OTHER_FILE),
    "undecodable_video": (_E, _OTHER_COPY),
    "units": (_E, _CONVERT),
    "unknown_task": (_E, _OTHER_COPY),
    "unreadable_dataset": (_E, _OTHER_COPY),
    "unreadable_file": (_E, _OTHER_COPY),
    "video_rate": (_E, "correct fps in meta/info.json if it was edited, or record the dataset again"),
    "video_size": (_E, "correct the shape in meta/info.json, or record the dataset again"),
}
"""Severity of each kind of defect, and the advice to give."""


def finding(
    code: str,
    message: str,
    episode: int | None = None,
    frame: int | None = None,
    *,
    camera: str | None = None,
    kind: tuple[Severity, str] | None = None,
) -> Finding:
    """Return a finding.

    Args:
        code: Name of the kind of defect.
        message: The defect, with the found and the expected values.
        episode: The episode; None: the whole dataset.
        frame: The first frame in that episode; None: the whole episode.
        camera: The camera; None: no single camera.
        kind: Severity and advice; None: those of ``KINDS``.
    """
    severity, advice = kind or KINDS[code]
    return Finding(code, severity, message, advice, episode, frame, camera)
