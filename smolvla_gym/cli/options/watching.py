"""The options of those who watch: ``--rerun`` and ``--mcap``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolvla_gym.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from smolvla_gym.episodes.callback import Callback


def add_arguments(parser: Any) -> None:
    """Adds them."""
    parser.add_argument(
        "--rerun",
        nargs="?",
        const="viewer",
        metavar="FILE.rrd",
        help="log cameras, joints, plan, safety and the arm in 3D to Rerun: to its viewer, or to a file (one an "
        "episode)",
    )
    parser.add_argument(
        "--mcap", type=Path, metavar="FILE", help="write the episodes as ROS 2 messages, for Foxglove and ros2 bag"
    )


def check(arguments: argparse.Namespace) -> None:
    """Refuses files of the wrong kind, and packages that are not there.

    Raises:
        OptionError: A file does not end as it has to.
        MissingExtraError: A package is not installed.
    """
    for value, module, extra in ((arguments.rerun, "rerun", "rerun"), (arguments.mcap, "mcap_ros2", "mcap")):
        if value is not None and importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"--{extra}", extra, ModuleNotFoundError(f"No module named {module!r}"))
    from smolvla_gym.integrations.rerun.log import VIEWER

    if arguments.rerun is not None and arguments.rerun != VIEWER and not arguments.rerun.endswith(".rrd"):
        raise OptionError("--rerun", arguments.rerun, "a file ending in .rrd; without one, the viewer opens")
    if arguments.mcap is not None and arguments.mcap.suffix != ".mcap":
        raise OptionError("--mcap", str(arguments.mcap), "a file ending in .mcap")


@contextlib.contextmanager
def callbacks(arguments: argparse.Namespace, *, realtime: bool) -> Iterator[list[Callback]]:
    """Opens those that are asked for, and closes them.

    Args:
        arguments: Of the command.
        realtime: Whether an arm in real time must not wait for them.
    """
    from smolvla_gym.episodes.background import Background
    from smolvla_gym.episodes.callback import closing
    from smolvla_gym.integrations.mcap_log import McapLog
    from smolvla_gym.integrations.rerun.log import RerunLog

    opened: list[Callback] = []
    if arguments.rerun is not None:
        opened.append(RerunLog(arguments.rerun))
    if arguments.mcap is not None:
        opened.append(McapLog(arguments.mcap))
    if realtime:
        opened = [Background(callback) for callback in opened]
    with closing(opened):
        yield opened
