"""What was found about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How it stands."""

    OK = "ok"
    WARNING = "warning"
    """Something is not there, or not as good as it could be; the rest works without."""
    FAIL = "fail"
    """Something is there and does not work, or nothing works without it."""


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Attributes:
        name: What was looked at.
        status: How it stands.
        text: What was found.
        remedy: What to do about it; empty where nothing has to be done.
        free_bytes: Of a GPU, its free memory.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""
    free_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns what the JSON holds of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def ok(name: str, text: str) -> Finding:
    """It works."""
    return Finding(name, Status.OK, text)


def warning(name: str, text: str, remedy: str = "") -> Finding:
    """It is not there, or not as good as it could be."""
    return Finding(name, Status.WARNING, text, remedy)


def fail(name: str, text: str, remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(name, Status.FAIL, text, remedy)
