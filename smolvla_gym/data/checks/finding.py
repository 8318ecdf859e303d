"""A defect of a dataset: what it is, where, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a defect is."""

    ERROR = "error"
    """Training from the dataset fails, or learns what was not shown."""
    WARNING = "warning"
    """Somebody should look at it: it may be meant."""


@dataclass(frozen=True)
class Finding:
    """A defect of a dataset.

    Attributes:
        code: Name of the kind of defect, such as ``frozen_camera``.
        severity: How bad it is.
        message: What was found, with its values.
        advice: What to do.
        episode: The episode; None: the whole dataset.
        frame: The first frame in that episode; None: all of it.
        camera: The camera; None: it is none of a camera.
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
        """The place in words, such as ``episode 3, frame 12, camera wrist``; empty for the whole dataset."""
        places = {"episode": self.episode, "frame": self.frame, "camera": self.camera}
        return ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON holds of it."""
        return {**asdict(self), "severity": self.severity.value}


def error(code: str, message: str, advice: str, **where: Any) -> Finding:
    """Return a defect that spoils a training; ``where`` are ``episode``, ``frame`` and ``camera``."""
    return Finding(code, Severity.ERROR, message, advice, **where)


def warning(code: str, message: str, advice: str, **where: Any) -> Finding:
    """Return a defect that somebody should look at; ``where`` are ``episode``, ``frame`` and ``camera``."""
    return Finding(code, Severity.WARNING, message, advice, **where)


ANOTHER_COPY = "take another copy of the dataset"
REMOVE_EPISODE = "look at it, and remove it with lerobot-edit-dataset --operation.type delete_episodes"
