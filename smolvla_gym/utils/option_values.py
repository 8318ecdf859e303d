"""Check values of options, and return them as plain Python values.

NumPy scalars count as numbers. A number written as text does not: only the caller knows whether ``"5"`` is a number, a
port or a serial number.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import OptionError

_SERIAL_DIGITS: Final = 12
"""Digits of a RealSense camera's serial number; a number in YAML or JSON has lost its leading zeros."""

_LONGEST_SENTENCE: Final = 1000
"""Characters of the longest instruction; a policy uses about 200 of them."""

_JOINERS: Final = "\u200c\u200d"
"""Format characters that are part of words in some scripts."""


def plain(value: object) -> object:
    """Return a NumPy scalar or an array of shape () as a Python value, and other values unchanged."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.shape == ()):
        return value.item()
    return value


def check_switch(option: str, value: object) -> bool:
    """Return a value that is True or False.

    Raises:
        OptionError: The value is neither.
    """
    given = plain(value)
    if not isinstance(given, bool):
        raise OptionError(option, value, "True or False")
    return given


def check_choice(option: str, value: object, allowed: Sequence[Any]) -> Any:
    """Return the allowed value that equals a value.

    Raises:
        OptionError: No allowed value equals it.
    """
    given = plain(value)
    # True equals 1, but randomization=True names no level.
    if given is None or (isinstance(given, str | int | float) and not isinstance(given, bool)):
        for choice in allowed:
            if given == choice:
                return choice
    raise OptionError(option, value, "one of " + ", ".join(repr(a) for a in allowed))


def check_number(
    option: str,
    value: object,
    allowed: str,
    *,
    above: float = -math.inf,
    low: float = -math.inf,
    high: float = math.inf,
) -> float:
    """Return a finite number.

    Args:
        option: Name of the option.
        value: The value.
        allowed: Description of the allowed values, for the error.
        above: Lower bound, itself excluded.
        low: Lower bound, itself included.
        high: Upper bound, itself included.

    Raises:
        OptionError: The value is no number, not finite, or out of bounds.
    """
    given = plain(value)
    if isinstance(given, int | float) and not isinstance(given, bool):
        try:
            number = float(given)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and number > above and low <= number <= high:
            return number
    raise OptionError(option, value, allowed)


def check_whole(option: str, value: object, allowed: str, *, low: int, high: int) -> int:
    """Return a whole number from ``low`` to ``high``; floats such as ``256.0`` are refused.

    Raises:
        OptionError: The value is no such number.
    """
    given = plain(value)
    if isinstance(given, bool) or not isinstance(given, int) or not low <= given <= high:
        raise OptionError(option, value, allowed)
    return given


def check_pair(option: str, value: object, allowed: str, *, low: int, high: int) -> tuple[int, int]:
    """Return two whole numbers from ``low`` to ``high``, given as a tuple, a list or an array.

    Raises:
        OptionError: The value is no such pair.
    """
    parts = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(parts, str | bytes) or not isinstance(parts, Sequence) or len(parts) != 2:
        raise OptionError(option, value, allowed)
    try:
        first, second = (check_whole(option, part, allowed, low=low, high=high) for part in parts)
    except OptionError:
        raise OptionError(option, value, allowed) from None
    return first, second


def check_text(option: str, value: object, allowed: str) -> str:
    """Return a text that is not blank and has no control characters.

    Raises:
        OptionError: The value is no such text.
    """
    if not isinstance(value, str) or not value.strip() or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise OptionError(option, value, allowed)
    return str(value)


def check_sentence(option: str, value: object, allowed: str) -> str:
    """Return one line of plain text of up to 1000 characters, without the line break at its end.

    Raises:
        OptionError: The value is no such line.
    """
    text = value.rstrip("\r\n") if isinstance(value, str) else value
    if isinstance(text, str) and (len(text) > _LONGEST_SENTENCE or any(is_control_character(c) for c in text)):
        raise OptionError(option, value, allowed)
    return check_text(option, text, allowed)


def is_control_character(character: str) -> bool:
    """Return whether a character has no place in one line of text: control, format, surrogate, line separator."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS


def check_path(option: str, value: object, allowed: str) -> Path:
    """Return the name of a file or device, given as a text or a path.

    Raises:
        OptionError: The value is neither.
    """
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    try:
        return Path(check_text(option, name, allowed))
    except OptionError:
        raise OptionError(option, value, allowed) from None


def check_names(value: object) -> object:
    """Return an array, a list or a tuple as a tuple, and other values unchanged."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(value) if isinstance(value, list | tuple) else value


def check_serial(option: str, value: object) -> str:
    """Return a camera's serial number as a text; a number gets its leading zeros back.

    Raises:
        OptionError: The value is neither a text nor a whole number.
    """
    allowed = "the camera's serial number, a text such as '405000000001' (`smolvla-gym doctor` lists them)"
    given = plain(value)
    if isinstance(given, int) and not isinstance(given, bool) and 0 < given < 10**_SERIAL_DIGITS:
        return f"{given:0{_SERIAL_DIGITS}d}"
    try:
        return check_text(option, given, allowed).strip()
    except OptionError:
        raise OptionError(option, value, allowed) from None


def check_keys(option: str, given: object, known: Iterable[str]) -> dict[str, Any]:
    """Return options with known names as a dictionary; None gives an empty one.

    Raises:
        OptionError: The value is no mapping, or has an unknown key.
    """
    known = tuple(known)
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) and key in known for key in given):
        raise OptionError(option, given, "a dictionary with some of the keys " + ", ".join(map(repr, known)))
    return dict(given)
