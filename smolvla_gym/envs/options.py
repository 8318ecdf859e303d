"""Checks of the options of ``gym.make``, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from smolvla_gym.errors import OptionError

CONTROL_HZ = (5.0, 100.0)
IMAGE_EDGE = (16, 1280)


def check_choice(option: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Returns a value that is one of those allowed.

    Raises:
        OptionError: It is none of them.
    """
    # A bool equals 0 or 1, yet nobody who writes randomization=True knows which level that is.
    if isinstance(value, bool) or value not in allowed:
        raise OptionError(option, value, "one of " + ", ".join(repr(a) for a in allowed))
    return value


def check_control_hz(value: Any) -> float:
    """Returns a control rate in Hz.

    Raises:
        OptionError: It is no number in 5..100.
    """
    low, high = CONTROL_HZ
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError("control_hz", value, f"a number from {low:g} to {high:g}")
    if not low <= value <= high:
        raise OptionError("control_hz", value, f"{low:g} to {high:g}")
    return float(value)


def check_image_size(value: Any) -> tuple[int, int]:
    """Returns height and width in px.

    Raises:
        OptionError: They are not two whole numbers in 16..1280.
    """
    low, high = IMAGE_EDGE
    allowed = f"(height, width) in px, each from {low} to {high}"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise OptionError("image_size", value, allowed)
    if any(isinstance(v, bool) or not isinstance(v, int) or not low <= v <= high for v in value):
        raise OptionError("image_size", value, allowed)
    return value[0], value[1]
