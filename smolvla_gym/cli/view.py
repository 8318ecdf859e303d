"""``smolvla-gym view``: the arm on a page in the browser."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from typing import Any, Final

from smolvla_gym.cli import agent as agent_options
from smolvla_gym.cli import real
from smolvla_gym.cli.arguments import at_least, positive
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
    add("--env", choices=("sim", "real"), default="sim", help="which arm (default: %(default)s)")
    add("--task", default="lift", help="what lies on the simulated table (default: %(default)s)")
    add("--policy", default="bundled", metavar="P", help="what drives: bundled, expert, a folder, a repository")
    add("--http-port", type=at_least(0), default=8080, metavar="N", help="of the page (default: %(default)s)")
    add("--seed", type=at_least(0), default=2, metavar="S", help="of the first scene (default: %(default)s)")
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: %(default)s)")
    add("--control-hz", type=positive, default=30, metavar="HZ", help="control rate (default: %(default)s)")
    add("--duration", type=positive, metavar="S", help="end after so many seconds (default: never)")
    agent_options.add_arguments(parser)
    real.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    from smolvla_gym.envs.options import check_control_hz
    from smolvla_gym.parol6 import get_gripper
    from smolvla_gym.tasks import get_task

    get_task(arguments.task)
    get_gripper(arguments.gripper)
    check_control_hz(arguments.control_hz)
    if arguments.http_port > 65535:
        raise OptionError("--http-port", arguments.http_port, "0 to 65535")
    agent_options.check(arguments)
    real.check(arguments)
    if arguments.env == "real":
        real.find_devices(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        _run(arguments)
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from smolvla_gym.cli.driven import driven_env
    from smolvla_gym.plugins.page.page import Page
    from smolvla_gym.plugins.ros2.bridge import Bridge

    with contextlib.ExitStack() as stack:
        env, agent = driven_env(arguments, stack, ("wrist", "scene"))
        page = Page(env, arguments.http_port, can_start=agent is not None)
        stack.callback(page.close)
        if arguments.env == "real":
            real.announce_homing(env, arguments)
        bridge = Bridge(env, page, agent=agent, seed=arguments.seed, raw_images=True)
        print(f"smolvla-gym: {page.url}; Ctrl-C ends it", flush=True)
        bridge.run(threading.Event(), arguments.duration)
