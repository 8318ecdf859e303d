"""Readers of single values of the command line; each says what it expected."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    """Return the error of a value that is not what was expected."""
    return argparse.ArgumentTypeError(f"{' '.join(text.split())[:200]}: expected {expected}")


def reader_of[T](
    kind: Callable[[str], T], expected: str, is_allowed: Callable[[T], Any] = lambda value: True
) -> Callable[[str], T]:
    """Return a reader of values.

    Args:
        kind: Converts the text, or raises ``ValueError``.
        expected: Description of the allowed values.
        is_allowed: Whether a value is one of them.
    """

    def read(text: str) -> T:
        with contextlib.suppress(ValueError):
            if is_allowed(value := kind(text)):
                return value
        raise refused(text, expected)

    return read


integer: Callable[[str], int] = reader_of(int, "an integer")
number: Callable[[str], float] = reader_of(float, "a number")
filled: Callable[[str], str] = reader_of(str, "a text that is not empty", str.strip)
positive: Callable[[str], float] = reader_of(float, "a number above 0", lambda value: 0 < value < math.inf)


def path(text: str) -> Path:
    """Read a path; an empty one, as of a shell variable that is not set, would be the current folder."""
    if not text.strip():
        raise refused(text, "the name of a file or folder")
    return Path(text)


def at_least(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a reader of integers from ``lowest`` to ``highest``, both included."""
    bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
    return reader_of(
        int, f"an integer {bounds}", lambda value: lowest <= value <= (value if highest is None else highest)
    )


def choice(allowed: Sequence[str]) -> Callable[[str], str]:
    """Return a reader that accepts only the given texts."""
    return reader_of(str, f"one of {', '.join(allowed)}", lambda text: text in allowed)
