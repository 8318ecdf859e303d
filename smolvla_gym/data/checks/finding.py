"""A defect of a dataset: its kind, its place, and the advice to give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypedDict, Unpack

from smolvla_gym.errors import DatasetError


class Place(TypedDict, total=False):
    """Place of a defect in a dataset; see :class:`Finding`."""

    episode: int | None
    frame: int | None
    camera: str | None


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
    for finding in findings:
        if finding.severity is Severity.ERROR:
            where = f", {finding.where}" if finding.where else ""
            raise DatasetError(f"In {root}{where}: {finding.message}; {finding.advice}.")


def error(code: str, message: str, advice: str, **place: Unpack[Place]) -> Finding:
    """Return a finding of severity ``ERROR``; ``place`` may have ``episode``, ``frame`` and ``camera``."""
    return Finding(code, Severity.ERROR, message, advice, **place)


def warning(code: str, message: str, advice: str, **place: Unpack[Place]) -> Finding:
    """Return a finding of severity ``WARNING``; ``place`` may have ``episode``, ``frame`` and ``camera``."""
    return Finding(code, Severity.WARNING, message, advice, **place)


ANOTHER_COPY = "take another copy of the dataset"
REMOVE_EPISODE = "check the episode, or remove it with lerobot-edit-dataset --operation.type delete_episodes"
