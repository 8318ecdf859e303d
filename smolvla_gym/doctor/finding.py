"""Findings of the checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """Something is absent or could be better; the rest works without it."""
    FAIL = "fail"
    """Something does not work, or nothing works without it."""


@dataclass(frozen=True)
class Finding:
    """Line of the report.

    Attributes:
        name: Name of the check.
        status: Outcome.
        text: Finding as a text.
        remedy: What to do about it; empty if nothing has to be done.
        free_bytes: Free memory of a GPU in bytes; None for anything else.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""
    free_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def ok(name: str, text: str) -> Finding:
    """Return a finding of something that works."""
    return Finding(name, Status.OK, text)


def warning(name: str, text: str, remedy: str = "") -> Finding:
    """Return a finding of something that is absent or could be better."""
    return Finding(name, Status.WARNING, text, remedy)


def fail(name: str, text: str, remedy: str = "") -> Finding:
    """Return a finding of something that does not work."""
    return Finding(name, Status.FAIL, text, remedy)
