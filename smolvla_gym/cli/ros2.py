"""``smolvla-gym ros2``: the arm as a node of a ROS 2 graph."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from typing import Any, Final

from smolvla_gym.cli import agent as agent_options
from smolvla_gym.cli import real
from smolvla_gym.cli.arguments import at_least, positive
from smolvla_gym.errors import OptionError

_EXAMPLES: Final = """examples:
  smolvla-gym ros2 --policy bundled                       the simulated arm; then, where ROS 2 is installed:
  ros2 topic echo /joint_states
  ros2 topic pub -r 10 /joint_commands sensor_msgs/JointState "{name: [joint_1], position: [0.5]}"
  ros2 topic pub --once /start std_msgs/Empty             the policy drives; /stop ends that
  smolvla-gym ros2 --env real --port twin --camera twin   the same on the virtual twin
  smolvla-gym ros2 --urdf parol6                          write parol6/parol6.urdf with its meshes, and end
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "ros2",
        help="Make the arm a node of a ROS 2 graph.",
        description="Sends joint states, pictures, tf, status and events of the simulated or the real arm to ROS 2, "
        "and takes joint commands, trajectories, instructions and stops from there. No ROS has to be installed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--env", choices=("sim", "real"), default="sim", help="which arm (default: %(default)s)")
    add("--task", default="lift", help="what lies on the simulated table (default: %(default)s)")
    add("--policy", metavar="P", help="what drives between /start and /stop: bundled, expert, a folder, a repository")
    add("--domain", type=at_least(0), metavar="N", help="ROS domain (default: ROS_DOMAIN_ID, or 0)")
    add("--transport", default="auto", help="auto, cyclonedds or rclpy (default: %(default)s)")
    add(
        "--interface",
        default="lo",
        metavar="NAME",
        help="network interface of CycloneDDS; lo keeps everything on this machine (default: %(default)s)",
    )
    add("--cameras", nargs="*", metavar="NAME", help="which (default: those of the policy, or wrist)")
    add("--raw-images", action="store_true", help="send pictures as sensor_msgs/Image, too")
    add("--seed", type=at_least(0), default=2, metavar="S", help="of the first scene (default: %(default)s)")
    add("--gripper", default="ssg48", help="the gripper that is mounted (default: %(default)s)")
    add("--control-hz", type=positive, default=30, metavar="HZ", help="control rate (default: %(default)s)")
    add("--duration", type=positive, metavar="S", help="end after so many seconds (default: never)")
    add("--urdf", metavar="DIR", help="write the arm's URDF and its meshes there, and end")
    agent_options.add_arguments(parser)
    real.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the bridge until it is interrupted."""
    from smolvla_gym.parol6 import get_gripper

    gripper = get_gripper(arguments.gripper)
    if arguments.urdf is not None:
        from smolvla_gym.plugins.ros2.urdf import write_urdf

        print(write_urdf(arguments.urdf, gripper))
        return 0
    _check(arguments)
    if arguments.env == "real":
        real.find_devices(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        _run(arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from smolvla_gym.envs.options import check_control_hz
    from smolvla_gym.sim.scene import check_cameras
    from smolvla_gym.tasks import get_task

    get_task(arguments.task)
    check_control_hz(arguments.control_hz)
    if arguments.cameras is not None:
        check_cameras(tuple(arguments.cameras))
    if arguments.policy is not None:
        agent_options.check(arguments)
        if arguments.cameras is not None and arguments.policy not in agent_options.SCRIPTED:
            raise OptionError("--cameras", arguments.cameras, "only without a SmolVLA policy, which brings its own")
    real.check(arguments)


def _domain() -> int:
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal():
        raise OptionError("ROS_DOMAIN_ID", text, "a number from 0 to 232")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    from smolvla_gym.cli.driven import driven_env
    from smolvla_gym.plugins.ros2.bridge import PUBLISHED, TAKEN, Bridge
    from smolvla_gym.plugins.ros2.transport import open_transport

    domain = _domain() if arguments.domain is None else arguments.domain
    with contextlib.ExitStack() as stack:
        transport = open_transport(arguments.transport, domain, arguments.interface)
        stack.callback(transport.close)
        cameras = ("wrist",) if arguments.cameras is None else tuple(arguments.cameras)
        env, agent = driven_env(arguments, stack, cameras)
        if arguments.env == "real":
            real.announce_homing(env, arguments)
        bridge = Bridge(env, transport, agent=agent, seed=arguments.seed, raw_images=arguments.raw_images)
        print(f"smolvla-gym: ROS domain {domain} through {transport.name}; Ctrl-C ends it", flush=True)
        print(f"  sends {', '.join(PUBLISHED)} and /camera/...", flush=True)
        print(f"  takes {', '.join(TAKEN)}", flush=True)
        bridge.run(threading.Event(), arguments.duration)
