"""``smolvla-gym view``: show the arm on a page in the browser."""

from __future__ import annotations

import contextlib
import sys
import threading
from dataclasses import dataclass, field
from typing import Final

from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.cli.options.bridge import BridgeOptions
from smolvla_gym.cli.options.parser import AddParser, command, option

_EXAMPLES: Final = """examples:
  smolvla-gym view                                        the simulated arm and the bundled policy
  smolvla-gym view --policy expert --task stack           the scripted expert
  smolvla-gym view --env real --port twin --camera twin   the virtual twin of the real arm
"""


@dataclass(kw_only=True)
class ViewOptions(BridgeOptions):
    """Options of ``smolvla-gym view``."""

    policy: str | None = option("policy that acts: bundled, expert, a folder, a repository", "bundled", metavar="P")
    http_port: int = option("port of the page", 8080, parse=at_least(0, 65535), metavar="N")
    cameras: list[str] | None = field(default_factory=lambda: ["wrist", "scene"])


def run(options: ViewOptions) -> int:
    """Serve the page until the program is interrupted."""
    options.check()
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        from smolvla_gym.integrations.viewer.page import Page

        env, agent = options.make(stack)
        page = Page(env, options.http_port, can_start=agent is not None)
        stack.callback(page.close)
        bridge = options.make_bridge(env, page, agent, raw_images=True)
        print(f"smolvla-gym: {page.url}; Ctrl-C ends it", flush=True)
        bridge.run(threading.Event(), options.duration)
    return 0


add_parser: AddParser = command(
    "view", ViewOptions, run, examples=_EXAMPLES,
    help="Show the arm on a page in the browser, and start and stop a policy from there.",
    description="Serves a page on this machine alone: the arm in 3D, the images of its cameras, an instruction to "
    "type, start and stop, and an emergency stop that holds until the fault is cleared.",
)  # fmt: skip
