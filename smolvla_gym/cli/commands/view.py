"""``smolvla-gym view``: the arm on a page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from typing import Any, Final

from smolvla_gym.cli.options import driven
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.errors import OptionError

_EXAMPLES: Final = """examples:
  smolvla-gym view                                        the simulated arm and the bundled policy
  smolvla-gym view --policy expert --task stack           the scripted expert
  smolvla-gym view --env real --port twin --camera twin   the virtual twin of the real arm
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "view",
        help="Show the arm on a page in the browser, and start and stop a policy from there.",
        description="Serves a page on this machine alone: the arm in 3D, what its cameras see, an instruction to type, "
        "start and stop, and an emergency stop that holds until the fault is cleared.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--policy", default="bundled", metavar="P", help="what drives: bundled, expert, a folder, a repository")
    add("--http-port", type=at_least(0), default=8080, metavar="N", help="of the page (default: %(default)s)")
    driven.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    if arguments.http_port > 65535:
        raise OptionError("--http-port", arguments.http_port, "0 to 65535")
    driven.check(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        _run(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from smolvla_gym.integrations.viewer.page import Page

    with contextlib.ExitStack() as stack:
        env, agent = driven.driven_env(arguments, stack, ("wrist", "scene"))
        page = Page(env, arguments.http_port, can_start=agent is not None)
        stack.callback(page.close)
        bridge = driven.make_bridge(arguments, env, page, agent, raw_images=True)
        print(f"smolvla-gym: {page.url}; Ctrl-C ends it", flush=True)
        bridge.run(threading.Event(), arguments.duration)
