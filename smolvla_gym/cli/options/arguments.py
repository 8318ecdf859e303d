"""Readers of single values of the command line; each says what it expected."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Callable, Sequence


def refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    """Return the error of a value that is not what was expected."""
    return argparse.ArgumentTypeError(f"{' '.join(text.split())[:200]}: expected {expected}")


def at_least(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a reader of integers from ``lowest`` to ``highest``, both included."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= lowest and (highest is None or value <= highest):
                return value
        raise refused(
            text, f"an integer {f'of at least {lowest}' if highest is None else f'from {lowest} to {highest}'}"
        )

    return parse


def integer(text: str) -> int:
    """Read an integer."""
    try:
        return int(text)
    except ValueError:
        raise refused(text, "an integer") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise refused(text, "a number") from None


def positive(text: str) -> float:
    """Read a finite number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise refused(text, "a number above 0")


def choice(allowed: Sequence[str]) -> Callable[[str], str]:
    """Return a reader that accepts only the given texts."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise refused(text, f"one of {', '.join(allowed)}")
        return text

    return parse
