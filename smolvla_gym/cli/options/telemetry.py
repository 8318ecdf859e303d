"""Options of the logs of episodes for viewers: ``--rerun`` and ``--mcap``."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smolvla_gym.cli.options.parser import Options, option
from smolvla_gym.errors import MissingExtraError

if TYPE_CHECKING:
    from smolvla_gym.episodes.callback import Callback


@dataclass(kw_only=True)
class TelemetryOptions(Options):
    """Options of the logs of episodes."""

    rerun: str | None = option(
        "log cameras, joints, plan, safety and the arm in 3D to Rerun: to its viewer, or to a file (one an episode)",
        None, const="viewer", metavar="FILE.rrd",
    )  # fmt: skip
    mcap: Path | None = option("write the episodes as ROS 2 messages, for Foxglove and ros2 bag", None, metavar="FILE")

    def check(self) -> None:
        """Refuse files of the wrong kind, and packages that are not installed.

        Raises:
            OptionError: A file has another ending.
            MissingExtraError: A package is not installed.
        """
        for value, module, extra in ((self.rerun, "rerun", "rerun"), (self.mcap, "mcap_ros2", "mcap")):
            if value is not None and importlib.util.find_spec(module) is None:
                raise MissingExtraError(f"--{extra}", extra, ModuleNotFoundError(f"No module named {module!r}"))
        if self.rerun is not None and self.rerun != "viewer" and not self.rerun.endswith(".rrd"):
            self.expect("rerun", "a file ending in .rrd; without one, the viewer opens")
        if self.mcap is not None and self.mcap.suffix != ".mcap":
            self.expect("mcap", "a file ending in .mcap")

    @contextlib.contextmanager
    def callbacks(self, *, realtime: bool) -> Iterator[list[Callback]]:
        """Open the logs, and close them at the end.

        Args:
            realtime: Whether an arm in real time must not wait for them.
        """
        from smolvla_gym.episodes.background import Background
        from smolvla_gym.episodes.callback import closing
        from smolvla_gym.integrations.mcap_log import McapLog
        from smolvla_gym.integrations.rerun.log import RerunLog

        opened: list[Callback] = []
        if self.rerun is not None:
            opened.append(RerunLog(self.rerun))
        if self.mcap is not None:
            opened.append(McapLog(self.mcap))
        if realtime:
            opened = [Background(callback) for callback in opened]
        with closing(opened):
            yield opened
