"""Sphinx extension: tables and pages that are made from the code when the documentation is built.

Directives:

- ``options``: the options of an environment id, with defaults, from the signature and docstring of its factory.
- ``attributes``: the attributes of a class, from its docstring.
- ``info``: the keys of the info dictionary, from an environment that is made for it.
- ``members``: the members of an enumeration, with the strings below them.
- ``commands``: the help of all commands of the console script.

It also writes the pages of the API reference, one for each package, into ``reference/api`` before Sphinx reads the
sources.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc.mock import mock as mock_imports
from sphinx.util.docutils import SphinxDirective

import smolvla_gym


def find(path: str) -> Any:
    """Return an object by its full name, such as ``smolvla_gym.tasks.Task``."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def section(docstring: str | None, title: str) -> dict[str, str]:
    """Return the entries of a section of a Google docstring, each as one line, in the markup of MyST.

    Args:
        docstring: The docstring.
        title: ``"Args"`` or ``"Attributes"``.
    """
    match = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring or "") + "\n", re.MULTILINE)
    entries: dict[str, str] = {}
    for line in textwrap.dedent(match[1]).splitlines() if match else ():
        if found := re.match(r"(\w+)(?: \(.*?\))?: (.*)", line):
            name = found[1]
            entries[name] = found[2]
        elif line.strip():
            entries[name] += " " + line.strip()
    return {name: myst(text) for name, text in entries.items()}


def myst(text: str) -> str:
    """Return the text of a docstring with its roles in the markup of MyST, fit for a table's cell."""
    text = re.sub(r":(?:py:)?(\w+):`", r"{py:\1}`", " ".join(text.split()))
    return text.replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class Table(SphinxDirective):
    """Base of the tables of names with their descriptions."""

    def table(self, head: Sequence[str], names: Iterable[str], described: dict[str, str]) -> list[nodes.Node]:
        """Return a table with a row for each name; a name without description is an error."""
        if missing := [name for name in names if name not in described]:
            raise self.error(f"no description of {', '.join(missing)}; there are those of {', '.join(described)}")
        return self.parse_text_to_nodes(table(head, ((f"`{name}`", described[name]) for name in names)))


class Options(Table):
    """``{options} PAROL6Sim-v0``, and optionally another id whose options are left out."""

    required_arguments, optional_arguments = 1, 1

    def run(self) -> list[nodes.Node]:
        factories = []
        for name in self.arguments:
            module, _, function = str(gym.spec(name).entry_point).partition(":")
            factories.append(getattr(importlib.import_module(module), function))
        described = section(factories[0].__doc__, "Args")
        known = inspect.signature(factories[1]).parameters if len(factories) > 1 else ()
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(factories[0]).parameters.items()
            if name not in known
        }
        cells = {name: f"`{defaults[name]!r}` | {described[name]}" for name in defaults if name in described}
        return self.table(("option", "default", "meaning"), list(defaults), cells)


class Attributes(Table):
    """``{attributes} path.of.Class``, and optionally the names that are shown."""

    required_arguments, optional_arguments, final_argument_whitespace = 1, 1, True

    def run(self) -> list[nodes.Node]:
        described = section(find(self.arguments[0]).__doc__, "Attributes")
        names = self.arguments[1].split() if len(self.arguments) > 1 else list(described)
        return self.table(("name", "meaning"), names, described)


class Info(Table):
    """``{info} path.of.Class``: the class whose attributes describe most keys; the content describes the others."""

    required_arguments, has_content = 1, True

    def run(self) -> list[nodes.Node]:
        described = section(find(self.arguments[0]).__doc__, "Attributes")
        for line in self.content:
            name, _, text = line.partition(": ")
            described[name] = text
        env = gym.make(smolvla_gym.SIM_ID, cameras=())
        _, info = env.reset(seed=0)
        env.close()
        return self.table(("key", "meaning"), list(info), described)


class Members(SphinxDirective):
    """``{members} path.of.Enumeration``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = find(self.arguments[0])
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)  # noqa: S101 - narrows a type
        rows, name = [], ""
        for node in tree.body:
            if isinstance(node, ast.Assign):
                name = ast.unparse(node.targets[0])
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                rows.append((f"`{kind[name].value}`", myst(str(node.value.value))))
        if len(rows) != len(kind):
            raise self.error(f"not every member of {self.arguments[0]} has a string below it")
        return self.parse_text_to_nodes(table(("name", "meaning"), rows))


class Commands(SphinxDirective):
    """``{commands}``: a section with the help of each command."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n\n".join(helps(command_parser(), ())), allow_section_headings=True)


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the console script, as it stands when it parses its arguments."""
    from smolvla_gym.cli.main import main

    class Caught(Exception):  # noqa: N818 - no error
        pass

    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Caught(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", catch):
        try:
            main([])
        except Caught as caught:
            parser: argparse.ArgumentParser = caught.args[0]
            return parser
    raise RuntimeError("smolvla_gym.cli.main.main() has parsed no arguments")


def helps(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> list[str]:
    """Return the help of a command and of those below it, each with its heading."""
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
        text = parser.format_help()
    parts = [f"{'#' * (2 + bool(path[1:]))} {parser.prog}\n\n```text\n{text}```"]
    below = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for action in below:
        for name, command in action.choices.items():
            parts += helps(command, (*path, name))
    return parts


WHOLE = ("drivers", "envs", "episodes", "errors", "evaluation", "parol6", "safety", "sim", "tasks", "twin")
"""Packages of which the reference shows every module; of the others it shows those that define public names."""


def write_api(app: Sphinx) -> None:
    """Write the pages of the API reference: one for each package, with its modules."""
    with mock_imports(app.config.autodoc_mock_imports):
        modules = {module for name in WHOLE for module in modules_of(f"smolvla_gym.{name}")}
        public = {name: getattr(smolvla_gym, name) for name in smolvla_gym.__all__}
    index = ["API", "===", "", *automodule("smolvla_gym"), "Public names", "------------", ""]
    for name, value in public.items():
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("smolvla_gym"):
            modules.add(value.__module__)
            index.append(f"- :py:obj:`{name} <{value.__module__}.{name}>`")
        else:
            index.append(f"- ``{name}``")
    index += [
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
        *sorted({f"   {package_of(module)}" for module in modules - {"smolvla_gym"}}),
    ]
    pages = {"index": index}
    for module in sorted(modules - {"smolvla_gym"}):
        package = package_of(module)
        page = pages.setdefault(package, [package, "=" * len(package), ""])
        if module != f"smolvla_gym.{package}":
            page += [module, "-" * len(module), ""]
        page += automodule(module)
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(exist_ok=True)
    for name, lines in pages.items():
        path, text = folder / f"{name}.rst", "\n".join(lines) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for stale in {path.stem for path in folder.glob("*.rst")} - pages.keys():
        (folder / f"{stale}.rst").unlink()


def package_of(module: str) -> str:
    """Return the name of the page of a module: that of its package, or of the module itself."""
    return module.split(".")[1]


def automodule(name: str) -> list[str]:
    """Return the directives that document a module; of a package only what itself defines."""
    module = importlib.import_module(name)
    if not hasattr(module, "__path__"):
        return [f".. automodule:: {name}", ""]
    own = [key for key, value in vars(module).items() if key[0] != "_" and getattr(value, "__module__", "") == name]
    functions = [line for key in own for line in (f".. autofunction:: {name}.{key}", "")]
    return [f".. automodule:: {name}", "   :no-members:", "", *functions]


def modules_of(name: str) -> list[str]:
    """Return the full names of a module and of all modules below it."""
    path = getattr(importlib.import_module(name), "__path__", ())
    return [name, *(module.name for module in pkgutil.walk_packages(path, name + "."))]


def accept_internal(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Show a reference to a name that exists, but not in the reference, as plain text.

    A name that does not exist stays a warning.
    """
    with mock_imports(app.config.autodoc_mock_imports):
        module = str(node.get("py:module") or "smolvla_gym")
        for name in (str(node["reftarget"]), f"{module}.{node['reftarget']}"):
            with contextlib.suppress(ValueError, ImportError, AttributeError):
                if name.startswith("smolvla_gym"):
                    pkgutil.resolve_name(name)
                    return content
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    for name, directive in (
        ("options", Options), ("attributes", Attributes), ("info", Info), ("members", Members), ("commands", Commands),
    ):  # fmt: skip
        app.add_directive(name, directive)
    app.connect("builder-inited", write_api)
    app.connect("missing-reference", accept_internal)
    return {"parallel_read_safe": True, "version": "1"}
