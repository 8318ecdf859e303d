"""Command-line parsers made of dataclasses: each field is an option with its type, default, help and check.

A command gets an instance of its dataclass, which a program can build as well. The instance knows which options stood
on the command line (``given``), so that a command that resumes can tell them from defaults.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, NoReturn, Self, get_args, get_origin, get_type_hints, override

from smolvla_gym.cli.options.arguments import choice, integer, number, path
from smolvla_gym.errors import OptionError

_OPTION: Final = "option"
_GROUP: Final = "group"


type AddParser = Callable[[argparse._SubParsersAction[argparse.ArgumentParser]], None]
"""Adds a command to a program; takes the result of ``add_subparsers``."""


class UsageError(OptionError):
    """An option that does not fit the other ones, or the files that it names; ``allowed`` is the whole reason."""


@dataclass(frozen=True)
class OptionInfo:
    """Properties of an option beside the type and default of its field.

    Attributes:
        help: Help text; the default is added.
        flag: The option, such as ``--from``; None: made of the field's name; without dashes: an argument by position.
        metavar: Name of the value in the help.
        parse: Reads the value from its text; None: what the type says.
        const: Value of the option where it stands without one; None: a value has to follow.
        repeat: Whether a list is given one value at a time, with the option repeated.
        empty: Whether a list may be empty.
        kept: Whether a command that resumes keeps the value.
    """

    help: str
    flag: str | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    const: Any = None
    repeat: bool = False
    empty: bool = False
    kept: bool = False


def option(
    help: str, default: Any = MISSING, *, flag: str | None = None, metavar: str | None = None,
    parse: Callable[[str], Any] | None = None, const: Any = None, repeat: bool = False, empty: bool = False,
    kept: bool = False,
) -> Any:  # fmt: skip
    """Return a dataclass field that is an option.

    Args:
        help: Help text.
        default: Default value; without one the option is required.
        flag: See :class:`OptionInfo`, as for the following ones.
        metavar: Name of the value in the help.
        parse: Reads the value from its text.
        const: Value of the option where it stands without one.
        repeat: Whether a list is given one value at a time.
        empty: Whether a list may be empty.
        kept: Whether a command that resumes keeps the value.
    """
    metadata = {_OPTION: OptionInfo(help, flag, metavar, parse, const, repeat, empty, kept)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(title: str, kind: type[Options]) -> Any:
    """Return a dataclass field that holds further options, which the help shows below a title."""
    return field(default_factory=kind, metadata={_GROUP: title})


@dataclass(kw_only=True)
class Options:
    """Base class of the options of a command, or of a group of them.

    Attributes:
        given: Names of the fields that stood on the command line.
    """

    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @classmethod
    def build(cls, namespace: argparse.Namespace) -> Self:
        """Return the options of a parsed command line."""
        hints, values, parsed = get_type_hints(cls), dict[str, Any](), vars(namespace)
        for entry in fields(cls):
            if _GROUP in entry.metadata:
                values[entry.name] = hints[entry.name].build(namespace)
            elif _OPTION in entry.metadata and entry.name in parsed:
                values[entry.name] = parsed[entry.name]
        return cls(**values, given=frozenset(values) & parsed.keys())

    def changed(self) -> list[str]:
        """Return the names of the fields whose value is not the default."""
        return [entry.name for entry, _ in option_fields(type(self)) if getattr(self, entry.name) != default_of(entry)]

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Raise the error of an option that cannot be combined with the other ones.

        Raises:
            UsageError: Always.
        """
        raise UsageError(flag_of(type(self), name), getattr(self, name), reason)

    def expect(self, name: str, allowed: str) -> NoReturn:
        """Raise the error of an option whose value is not allowed.

        Raises:
            OptionError: Always.
        """
        raise OptionError(flag_of(type(self), name), getattr(self, name), allowed)


def option_fields(kind: type[Options]) -> list[tuple[Field[Any], OptionInfo]]:
    """Return the fields of a dataclass that are options, those of subclasses first, without those of its groups."""
    found = [entry for entry in fields(kind) if _OPTION in entry.metadata]
    order = [name for base in kind.__mro__ for name in vars(base).get("__annotations__", ())]
    return [(entry, entry.metadata[_OPTION]) for entry in sorted(found, key=lambda entry: order.index(entry.name))]


def group_names(kind: type[Options]) -> list[str]:
    """Return the names of the fields that hold groups of options."""
    return [entry.name for entry in fields(kind) if _GROUP in entry.metadata]


def default_of(entry: Field[Any]) -> Any:
    """Return the default of a field; ``MISSING`` for a required option."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def flag_of(kind: type[Options], name: str) -> str:
    """Return the option of a field as it stands on the command line."""
    flags = {entry.name: info.flag for entry, info in option_fields(kind)}
    return flags.get(name) or "--" + name.replace("_", "-")


def value_type(hint: Any) -> tuple[Any, bool]:
    """Return the type of one value of an option, and whether the option takes a list of them."""
    if get_origin(hint) is not Literal and NoneType in get_args(hint):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is list:
        return value_type(get_args(hint)[0])[0], True
    return hint, False


def reader(kind: Any, info: OptionInfo) -> Callable[[str], Any]:
    """Return the function that reads one value of an option from its text."""
    if info.parse is not None:
        return info.parse
    if get_origin(kind) is Literal:
        return choice(get_args(kind))
    readers: dict[Any, Callable[[str], Any]] = {int: integer, float: number, Path: path}
    return readers.get(kind, str)


def add_options(parser: Any, kind: type[Options]) -> None:
    """Add the options of a dataclass to a parser; options that are not given leave no trace in the namespace."""
    hints = get_type_hints(kind)
    for entry, info in option_fields(kind):
        _add_option(parser, entry, hints[entry.name], info)
    for entry in fields(kind):
        if _GROUP in entry.metadata:
            add_options(parser.add_argument_group(entry.metadata[_GROUP]), hints[entry.name])


def _add_option(parser: Any, entry: Field[Any], hint: Any, info: OptionInfo) -> None:
    kind, several = value_type(hint)
    flag = info.flag or flag_of(Options, entry.name)
    positional = not flag.startswith("-")
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(info.help, default_of(entry))}
    if not positional:
        keywords["dest"] = entry.name
        if default_of(entry) is MISSING:
            keywords["required"] = True
    if kind is bool:
        keywords["action"] = "store_false" if entry.default is True else "store_true"
    else:
        keywords["type"], keywords["metavar"] = reader(kind, info), info.metavar or (flag if positional else None)
        if get_origin(kind) is Literal:
            keywords["choices"] = get_args(kind)
        if info.repeat:
            keywords["action"] = "append"
        elif several:
            keywords["nargs"] = "*" if info.empty else "+"
        elif info.const is not None:
            keywords |= {"nargs": "?", "const": info.const}
    parser.add_argument(entry.name if positional else flag, **keywords)


def _help(text: str, default: Any) -> str:
    shown = default not in (None, MISSING, []) and not isinstance(default, bool) and "(default:" not in text
    if shown:
        value = " ".join(map(str, default)) if isinstance(default, list) else default
        text += f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"
    return text.replace("%", "%%")


class CommandParser(argparse.ArgumentParser):
    """Parser whose errors are one line."""

    @override
    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with the code 2."""
        message = re.sub(r"^argument ([^:]+):(?= .*: expected )", r"\1", message).removeprefix("argument ")
        hint = "" if ": expected " in message else f"; `{self.prog} --help` lists what there is"
        print(f"smolvla-gym: error: {message}{hint}", file=sys.stderr)
        sys.exit(2)


def command[T: Options](
    name: str, kind: type[T], run: Callable[[T], int], *, help: str, description: str, examples: str = ""
) -> AddParser:
    """Return the function that adds a command to the program; it takes the result of ``add_subparsers``.

    Args:
        name: Name of the command.
        kind: Dataclass of its options.
        run: Runs the command with an instance of them; returns the exit code.
        help: Line for the list of commands.
        description: Text for the help of the command.
        examples: Text below the options.
    """

    def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        parser = commands.add_parser(
            name, help=help, description=textwrap.fill(description, shutil.get_terminal_size().columns - 2),
            epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        add_options(parser, kind)
        flags = frozenset(flag for action in parser._actions for flag in action.option_strings)
        parser.set_defaults(run=lambda namespace: run(kind.build(namespace)), flags=flags)

    return add_parser
