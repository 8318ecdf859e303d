"""Messages between a worker and its parent: lines of JSON, and what an error or an object is in one."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import select
from collections.abc import Callable, Iterator
from typing import Any, Final

import smolvla_gym.errors
from smolvla_gym.errors import DeviceError, OptionError, SmolVLAGymError

Message = dict[str, Any]

MAX_MESSAGE: Final = 1 << 20
"""Bytes of a message; a longer line ends the channel."""

CLOSE: Final = "close"
"""The request that ends a worker."""

_PARENT_CHECK: Final = 1.0
"""Period in s at which a worker that receives nothing compares the id of its parent process."""


def pack_object(value: object) -> str:
    """Return an object as a text that a message can carry; only :func:`unpack_object` of a trusted peer reads it."""
    return base64.b64encode(pickle.dumps(value)).decode()


def unpack_object(text: str) -> Any:
    """Return the object of a text of :func:`pack_object`. It may execute code: only for a pipe that the parent made."""
    return pickle.loads(base64.b64decode(text))  # noqa: S301 - of a process that this one started, or of its parent


def encode_error(error: Exception) -> Message:
    """Return an error as a message, with its notes."""
    arguments = [error.option, str(error.value), error.allowed] if isinstance(error, OptionError) else None
    notes = getattr(error, "__notes__", [])
    return {"type": type(error).__name__, "text": str(error), "arguments": arguments, "notes": notes}


def decode_error(values: Message) -> SmolVLAGymError:
    """Build the error of a message; one that is no error of this package becomes a ``DeviceError``."""
    kind = getattr(smolvla_gym.errors, values["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, SmolVLAGymError)):
        return DeviceError(f"{values['type']}: {values['text']}")
    if kind is OptionError:
        error: SmolVLAGymError = OptionError(*values["arguments"])
    else:
        error = kind.__new__(kind)  # some have arguments that a message does not carry
        Exception.__init__(error, values["text"])
    for note in values["notes"]:
        error.add_note(note)
    return error


def parse_message(line: bytes) -> Message:
    """Return the message of a line, an empty one where the line is none: Python prints before a worker begins, too."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def read_lines(descriptor: int, is_over: Callable[[], bool] | None = None) -> Iterator[bytes]:
    """Yield the lines that come from a pipe until it ends, a line is too long, or ``is_over`` says so."""
    rest = b""
    # Python's own reader of the standard input holds a lock that hinders the end of the program.
    with contextlib.suppress(OSError):
        while len(rest) <= MAX_MESSAGE:
            while is_over is not None and not select.select([descriptor], [], [], _PARENT_CHECK)[0]:
                if is_over():
                    return
            if not (data := os.read(descriptor, 65536)):
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


def write_message(descriptor: int, message: Message) -> None:
    """Write a message to a pipe; it may block.

    Raises:
        OSError: The other end is closed.
    """
    data = json.dumps(message, default=str).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]
