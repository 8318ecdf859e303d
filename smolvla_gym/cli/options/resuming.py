"""Options of a command that goes on with what it has begun: those not given are as before, and others are refused."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from smolvla_gym.errors import OptionError, RecordingError
from smolvla_gym.utils.untrusted import printable


def keep_defaults(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Tell options that are given from those that are not: until :func:`recall` the latter are None.

    Args:
        parser: All its arguments are added.
        names: Of the options, as ``argparse`` calls them.
    """
    defaults = {name: parser.get_default(name) for name in names}
    parser.set_defaults(defaults=defaults, **dict.fromkeys(names))


def recall(arguments: argparse.Namespace, before: Mapping[str, Any] | None, place: object) -> None:
    """Fill in what was not given: from before, or where nothing was begun the defaults.

    Args:
        arguments: Of a parser of :func:`keep_defaults`.
        before: What :func:`options_of` returned when it was begun; None: it begins now.
        place: Where ``before`` was read, for messages.

    Raises:
        OptionError: An option that was given differs from before.
        RecordingError: What was read cannot have been written by this command.
    """
    for name, default in arguments.defaults.items():
        given = getattr(arguments, name)
        if before is None:
            setattr(arguments, name, default if given is None else given)
            continue
        if name not in before or not _alike(before[name], default):
            raise RecordingError(f"{place} says nothing of {name} that could be. Choose another folder.")
        kept = before[name]
        if name == "task" and given is None and (modules := [task for task in _texts(kept) if ":" in task]):
            shown = ", ".join(printable(task, 100) for task in modules)
            allowed = "the same once more: a module is imported only where it is named on the command line"
            raise OptionError("--task", shown, allowed)
        if given is not None and _plain(given) != kept:
            option = "--" + name.replace("_", "-")
            raise OptionError(option, given, f"{kept!r}, as when this was begun, or nothing")
        setattr(arguments, name, kept)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that must not change on the way, as JSON holds them."""
    return {name: _plain(getattr(arguments, name)) for name in arguments.defaults}


def _plain(value: object) -> Any:
    return json.loads(json.dumps(value, default=str))


def _texts(value: object) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


def _alike(value: object, default: object) -> bool:
    """Tells whether a value may be one of an option with this default."""
    if default is None:
        return value is None or isinstance(value, str | int | float)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, list):
        return isinstance(value, list) and all(
            _alike(entry, default[0] if default else None) or not default for entry in value
        )
    return type(value) is type(default)
