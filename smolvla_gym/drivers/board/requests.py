"""The requests to the board's driver, the same in the worker process and in lockstep."""

from __future__ import annotations

from typing import Any

import numpy as np

from smolvla_gym.drivers.board.driver import Board
from smolvla_gym.errors import FaultError


def refuse_stale(do: str, arguments: dict[str, Any], now: float, limit: float) -> None:
    """Refuse an aim that waited too long: its sender has had no reply, and the arm must not move by surprise.

    Args:
        do: Name of the request.
        arguments: Those of the request; an aim says when it was ``sent``, in s.
        now: The moment at which it would be obeyed in s, on the clock of its sender.
        limit: How old it may be in s.

    Raises:
        FaultError: It is older.
    """
    if do == "aim" and now - arguments["sent"] > limit:
        raise FaultError(f"The action is {now - arguments['sent']:.2g} s old; it was not obeyed.")


def perform(board: Board, do: str, arguments: dict[str, Any], now: float) -> None:
    """Have the driver carry a request out at the moment ``now`` in s.

    Raises:
        SmolVLAGymError: What the driver raises.
        ValueError: There is no such request.
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
