"""Options of a command that resumes: those not given are as before, and other values of them are refused.

The fields with ``kept=True`` decide about the result. Their values are stored when the command begins, and read again,
as untrusted JSON, when it resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from smolvla_gym.cli.options.parser import (
    OptionInfo,
    Options,
    UsageError,
    flag_of,
    group_names,
    option_fields,
    reader,
    value_type,
)
from smolvla_gym.errors import RecordingError
from smolvla_gym.utils.untrusted import printable


def kept_values(options: Options) -> dict[str, Any]:
    """Return the options that must not change while a command goes on, as JSON holds them."""
    values = {entry.name: getattr(options, entry.name) for entry, info in option_fields(type(options)) if info.kept}
    for name in group_names(type(options)):
        values |= kept_values(getattr(options, name))
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def restore(options: Options, stored: Mapping[str, Any], place: object) -> None:
    """Set the options that were not given to the stored values.

    Args:
        options: The options of the command line; their kept fields are set.
        stored: What :func:`kept_values` returned when the command began.
        place: The file that it was read from, for messages.

    Raises:
        UsageError: An option that was given differs from the stored value.
        RecordingError: A stored value is missing, or no value of its option.
    """
    hints = get_type_hints(type(options))
    for entry, info in option_fields(type(options)):
        if info.kept:
            _restore(options, entry, value_from_json(entry, hints[entry.name], info, stored, place), stored)
    for name in group_names(type(options)):
        restore(getattr(options, name), stored, place)


def _restore(options: Options, entry: Field[Any], value: Any, stored: Mapping[str, Any]) -> None:
    name, given = entry.name, getattr(options, entry.name)
    flag, kept = flag_of(type(options), name), stored[name]
    if name not in options.given:
        modules = [task for task in value if ":" in task] if name == "task" else []
        if modules:
            shown = ", ".join(printable(task, 100) for task in modules)
            raise UsageError(flag, shown, "name it again: a module is imported only if the command line names it")
    elif json.loads(json.dumps(given, default=str)) != kept:
        raise UsageError(flag, given, f"expected {printable(repr(kept), 200)}, as when this was begun, or nothing")
    setattr(options, name, value)


def value_from_json(entry: Field[Any], hint: Any, info: OptionInfo, stored: Mapping[str, Any], place: object) -> Any:
    """Return a stored value as the option has it.

    Raises:
        RecordingError: It is missing, or no value of the option.
    """
    try:
        return _convert(stored[entry.name], hint, info)
    except (KeyError, ValueError, argparse.ArgumentTypeError) as error:
        raise RecordingError(
            f"{place} has no value of {entry.name} that can be used ({printable(error, 200)}). Choose another folder."
        ) from error


def _convert(value: object, hint: Any, info: OptionInfo) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    if get_origin(hint) is list or any(get_origin(kind) is list for kind in get_args(hint)):
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list")
        kind = hint if get_origin(hint) is list else next(k for k in get_args(hint) if get_origin(k) is list)
        return [_convert(entry, get_args(kind)[0], info) for entry in value]
    kind, _ = value_type(hint)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, list) or len(value) != len(parts):
            raise ValueError(f"{value!r} is no list of {len(parts)}")
        return tuple(_convert(entry, part, OptionInfo("")) for entry, part in zip(value, parts, strict=True))
    plain: Any = {int: int, float: (int, float), bool: bool}.get(kind, str)
    if not isinstance(value, plain) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{value!r} is of the type {type(value).__name__}")
    if kind is bool:
        return value
    if kind in (int, float) or get_origin(kind) is Literal:
        return reader(kind, info)(str(value))  # with the bounds of the option
    return Path(str(value)) if kind is Path else value
