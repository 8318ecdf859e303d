"""Read data of files, hubs and sockets: bounded, without side effects, and with one error per defect.

Every reader of a foreign file or message uses this module, so that a defect is fixed once for all of them.
``SECURITY.md`` has the threat model.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from smolvla_gym.errors import SmolVLAGymError

MAX_JSON_BYTES: Final = 4 << 20
"""Largest JSON file that is read by default, in bytes. SmolVLA's own are below 100 kB."""

MAX_JSON_DEPTH: Final = 32
"""Deepest nesting of lists and objects that is accepted. LeRobot's files have 5."""


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Links are followed, because the hub's cache consists of links. A FIFO, a device or a folder is refused without
    waiting for it.

    Args:
        path: The file.
        max_bytes: Largest accepted size in bytes.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: The file is no regular file, or larger than ``max_bytes``.
    """
    # Without O_NONBLOCK opening a FIFO waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes} bytes")
    return content


def parse_json(text: str | bytes, max_depth: int = MAX_JSON_DEPTH) -> Any:
    """Return the value of a JSON text.

    Stricter than ``json.loads``: numbers that are not finite, a key that stands twice in one object and deep nesting
    are refused, because other readers of the same text may see another value or fail.

    Args:
        text: The text; bytes are UTF-8.
        max_depth: Deepest accepted nesting.

    Raises:
        ValueError: The text is not such a JSON text.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"lists and objects are nested more than {max_depth} deep") from None
    _check_depth(value, max_depth)
    return value


def parse_json_object(text: str | bytes, max_depth: int = MAX_JSON_DEPTH) -> dict[str, Any]:
    """Return the object of a JSON text, as :func:`parse_json` does.

    Raises:
        ValueError: The text is not accepted, or holds no JSON object.
    """
    value = parse_json(text, max_depth)
    if not isinstance(value, dict):
        raise ValueError(f"it holds no JSON object but {_kind(value)}")
    return value


def read_json_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object of a JSON file that :func:`read_file` and :func:`parse_json` accept.

    Args:
        path: The file.
        max_bytes: Largest accepted size in bytes.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: The file is refused, or holds no JSON object.
    """
    return parse_json_object(read_file(path, max_bytes))


@contextlib.contextmanager
def reading_as(error: type[SmolVLAGymError], path: Path, advice: str, missing: str | None = None) -> Iterator[None]:
    """Turn an error of reading a foreign file into an error that names the file and says what to do.

    Args:
        error: Type of the error.
        path: The file.
        advice: What to do, as a sentence.
        missing: Message of the error where the file is missing; None: a ``FileNotFoundError`` stays one.

    Raises:
        FileNotFoundError: The block could not find the file, and ``missing`` is None.
        SmolVLAGymError: The block failed with another ``OSError`` or a ``ValueError``: an ``error`` names the file.
    """
    try:
        yield
    except SmolVLAGymError:
        raise
    except FileNotFoundError as cause:
        if missing is None:
            raise
        raise error(missing) from cause
    except (OSError, ValueError) as cause:
        raise error(f"{path} is broken or cannot be read ({printable(cause)}). {advice}") from cause


def check_inside(root: Path, name: object) -> Path:
    """Return the path of a file below a folder, from a name in a foreign file.

    Args:
        root: The folder.
        name: The name as the foreign file has it, with ``/`` between folders.

    Raises:
        ValueError: The name is no text, absolute, empty, or leaves the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r:.100} is no relative file name")
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        raise ValueError(f"{name!r:.100} leads out of its folder")
    return root.joinpath(*pure.parts)


def is_link(path: Path) -> bool:
    """Return True for a symbolic link or a junction."""
    return path.is_symlink() or path.is_junction()


def has_link(root: Path, path: Path) -> bool:
    """Return whether a path below a folder, or a folder between them, is a symbolic link.

    Args:
        root: The folder; a link to the folder itself does not count.
        path: A path below it.

    Raises:
        ValueError: ``path`` is not below ``root``.
    """
    place = root
    for part in path.relative_to(root).parts:
        if part == "..":
            return True
        place = place / part
        if is_link(place):
            return True
    return False


def printable(text: object, limit: int = 300) -> str:
    """Return a foreign text as one line that is safe in a terminal or a log.

    Control, format and surrogate characters become spaces, so that no escape sequence reaches a terminal; the text is
    cut at ``limit`` characters.
    """
    head = str(text)[: 4 * limit]
    clean = "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in head)
    line = " ".join(clean.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is not finite")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def _check_depth(value: Any, max_depth: int) -> None:
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inner(outer)]:
        depth += 1
        if depth > max_depth:
            raise ValueError(f"lists and objects are nested more than {max_depth} deep")


def _inner(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [entry for entry in inner if isinstance(entry, dict | list)]


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
