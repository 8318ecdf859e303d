"""Schemas of untrusted JSON objects and messages: a check of type, range and length for each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any], Any]
"""Returns the checked value, or raises ``ValueError`` with a description of the allowed values."""


class ExpectedError(ValueError):
    """A value is not allowed; the message describes the allowed values."""


class UnknownFieldsError(ValueError):
    """An object has unknown fields, such as those of another LeRobot release or of another program."""


@dataclass(frozen=True)
class Default:
    """Check of a field that has a value also where an object lacks it.

    Attributes:
        check: Check of the field's value.
        value: Value where the field is missing; it is not checked.
    """

    check: Check
    value: Any

    def __call__(self, value: Any) -> Any:
        """Return the checked value."""
        return self.check(value)


def check_fields(
    content: object, fields: Mapping[str, Check], required: Sequence[str] = (), *, others: bool = False
) -> dict[str, Any]:
    """Return the checked fields of a JSON object, and the defaults of those that it lacks.

    Args:
        content: The object.
        fields: A check for each field to return.
        required: Fields that must be present.
        others: Whether the object may have other fields, which are dropped.

    Raises:
        UnknownFieldsError: The object has other fields, and ``others`` is False.
        ValueError: It is no object, lacks a field, or a value is not allowed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{format_value(content)} stands where an object is expected")
    unknown = [name for name in content if name not in fields]
    if unknown and not others:
        raise UnknownFieldsError(f"unknown field {', '.join(format_value(name) for name in unknown[:5])}")
    missing = [name for name in required if name not in content]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing")
    defaults = {name: check.value for name, check in fields.items() if isinstance(check, Default)}
    return defaults | {name: check_field(name, content[name], fields[name]) for name in content if name in fields}


def check_field(name: str, value: Any, check: Check) -> Any:
    """Return the checked value of a field.

    Raises:
        ValueError: The value is not allowed; the message names the field.
    """
    try:
        return check(value)
    except UnknownFieldsError:
        raise
    except ExpectedError as err:
        raise ValueError(f"{name} is {format_value(value)}; expected {err}") from None
    except ValueError as err:
        raise ValueError(f"{name}: {err}") from None


def format_value(value: object, limit: int = 80) -> str:
    """Return an untrusted value for a message: escaped and cut."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str) and len(value) > limit:
        value = value[:limit] + "…"
    return repr(value)


def anything(value: Any) -> Any:
    """Accept every value."""
    return value


def flag(value: Any) -> bool:
    """Check for a bool."""
    if not isinstance(value, bool):
        raise ExpectedError("true or false")
    return value


def whole(low: int, high: int) -> Check:
    """Create a check for whole numbers."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ExpectedError(f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float, high: float) -> Check:
    """Create a check for numbers."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ExpectedError(f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def text(limit: int = 300) -> Check:
    """Create a check for texts up to a length, without NUL and lone surrogates, which no file or message can hold."""

    def check(value: Any) -> str:
        if (
            not isinstance(value, str)
            or len(value) > limit
            or any(c == "\0" or "\ud800" <= c < "\ue000" for c in value)
        ):
            raise ExpectedError(f"a text of at most {limit} characters")
        return value

    return check


def one_of(*choices: Any) -> Check:
    """Create a check for one of several values."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ExpectedError(f"one of {', '.join(map(repr, choices))}")
        return value

    return check


def optional(inner: Check) -> Check:
    """Create a check that also accepts null."""

    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def list_of(inner: Check, low: int, high: int) -> Check:
    """Create a check for lists with ``low`` to ``high`` entries; it returns a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise ExpectedError(f"a list of {low} entries" if low == high else f"a list of {low} to {high} entries")
        return tuple(check_field("an entry", entry, inner) for entry in value)

    return check


def object_of(fields: Mapping[str, Check], required: Sequence[str] = (), *, others: bool = False) -> Check:
    """Create a check for objects with the fields of :func:`check_fields`."""
    return lambda value: check_fields(value, fields, required, others=others)


def mapping_of(key: Check, inner: Check, high: int) -> Check:
    """Create a check for objects with at most ``high`` entries of any names."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > high:
            raise ExpectedError(f"an object of at most {high} entries")
        return {
            check_field("a name", name, key): check_field(format_value(name), inner_value, inner)
            for name, inner_value in value.items()
        }

    return check
