"""What the two ends of a link tell each other: requests to the board's driver, and errors on their way back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.errors import ActionError, DeviceError, FaultError, NotHomedError, SmolVLAGymError

MAX_LINE: Final = 1 << 20
"""Bytes of a line between the two ends; what is longer is no message, and ends the link."""

_ERRORS: Final[dict[str, type[SmolVLAGymError]]] = {
    error.__name__: error for error in (ActionError, DeviceError, FaultError, NotHomedError)
}


def read_lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines that come from a pipe, until it ends or a line is too long.

    Args:
        descriptor: The pipe's.
    """
    rest = b""
    # Python's own reader of the standard input holds a lock that hinders the end of the program.
    with contextlib.suppress(OSError):
        while len(rest) <= MAX_LINE and (data := os.read(descriptor, 65536)):
            *lines, rest = (rest + data).split(b"\n")
            yield from lines


def refuse_stale(do: str, arguments: dict[str, Any], now: float, limit: float) -> None:
    """Refuses an aim that waited too long: whoever sent it has seen no answer and must not be obeyed by surprise.

    Args:
        do: What was asked for.
        arguments: Those of the request; an aim says when it was ``sent``, in s.
        now: The moment at which it would be obeyed in s, on the clock of who sent it.
        limit: How old it may be in s.

    Raises:
        FaultError: It is older.
    """
    if do == "aim" and now - arguments["sent"] > limit:
        raise FaultError(f"The action is {now - arguments['sent']:.2g} s old; it was not obeyed.")


def perform(board: Board, do: str, arguments: dict[str, Any], now: float) -> None:
    """Has the driver do what was asked for at the moment ``now`` in s.

    Raises:
        SmolVLAGymError: What the driver raises.
    """
    match do:
        case "aim":
            board.aim(np.array(arguments["action"], dtype=np.float64), now)
        case "finish":
            board.finish()
        case "hold":
            board.hold(arguments["reason"], now)
        case "enable":
            board.enable(now)
        case "disable":
            board.disable(now)
        case "home":
            board.home(now)
        case "calibrate":
            board.calibrate_gripper(now)
        case "clear":
            board.clear(now)
        case _:
            raise ValueError(f"There is no request {do!r}.")


def error_to_json(error: Exception) -> dict[str, str]:
    """Returns an error as what ``json`` can write."""
    return {"type": type(error).__name__, "message": str(error)}


def error_from_json(values: dict[str, str]) -> SmolVLAGymError:
    """Builds an error from what :func:`error_to_json` gave; those that a link does not know become a DeviceError."""
    kind = _ERRORS.get(values["type"])
    return kind(values["message"]) if kind else DeviceError(f"{values['type']}: {values['message']}")
