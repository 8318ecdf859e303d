"""``smolvla-gym ros2``: the arm as a node of a ROS 2 graph."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from typing import Any, Final

from smolvla_gym.cli.options import agent as agent_options
from smolvla_gym.cli.options import driven
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.errors import OptionError

_EXAMPLES: Final = """examples:
  smolvla-gym ros2 --policy bundled                       the simulated arm; then, where ROS 2 is installed:
  ros2 topic echo /joint_states
  ros2 topic pub -r 10 /joint_commands sensor_msgs/JointState "{name: [joint_1], position: [0.5]}"
  ros2 topic pub --once /start std_msgs/Empty             the policy drives; /stop ends that
  smolvla-gym ros2 --env real --port twin --camera twin   the same on the virtual twin
  smolvla-gym ros2 --urdf parol6                          write parol6/parol6.urdf and what MoveIt needs, and end
  smolvla-gym ros2 --urdf my_robot --mesh-prefix package://my_robot/meshes
"""


def add_parser(commands: Any) -> None:
    """Adds the command and its arguments."""
    parser = commands.add_parser(
        "ros2",
        help="Make the arm a node of a ROS 2 graph.",
        description="Sends joint states, pictures, tf, status and events of the simulated or the real arm to ROS 2, "
        "and takes joint commands, trajectories, instructions and stops from there. No ROS has to be installed. With "
        "rclpy and control_msgs it serves the action FollowJointTrajectory, by which MoveIt moves the arm.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--policy", metavar="P", help="what drives between /start and /stop: bundled, expert, a folder, a repository")
    add("--domain", type=at_least(0), metavar="N", help="ROS domain (default: ROS_DOMAIN_ID, or 0)")
    add("--transport", default="auto", help="auto, cyclonedds or rclpy (default: %(default)s)")
    add(
        "--interface",
        default="lo",
        metavar="NAME",
        help="network interface that messages are kept on; lo: this machine alone; any: all, or, with rclpy, those of "
        "ROS's own variables (default: %(default)s)",
    )
    add("--namespace", default="", metavar="NAME", help="before every topic and action, such as arm_1 (default: none)")
    add("--cameras", nargs="*", metavar="NAME", help="which (default: those of the policy, or wrist)")
    add("--raw-images", action="store_true", help="send pictures as sensor_msgs/Image, too")
    add("--urdf", metavar="DIR", help="write the arm's URDF, meshes, SRDF and MoveIt's controllers there, and end")
    add(
        "--mesh-prefix",
        metavar="URL",
        help="with --urdf: what stands before a mesh's name, such as package://my_robot/meshes (default: file://, the "
        "folder on this machine)",
    )
    driven.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the bridge until it is interrupted."""
    if arguments.urdf is not None:
        return _describe(arguments)
    _check(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        _run(arguments)
    return 0


def _describe(arguments: argparse.Namespace) -> int:
    """Writes the arm's description."""
    from smolvla_gym.integrations.ros2.moveit import write_controllers
    from smolvla_gym.integrations.ros2.srdf import write_srdf
    from smolvla_gym.integrations.ros2.urdf import write_urdf
    from smolvla_gym.parol6 import get_gripper

    gripper = get_gripper(arguments.gripper)
    print(write_urdf(arguments.urdf, gripper, arguments.mesh_prefix))
    print(write_srdf(arguments.urdf, gripper))
    print(write_controllers(arguments.urdf))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from smolvla_gym.integrations.bridge.namespace import check_namespace
    from smolvla_gym.sim.scene import check_cameras

    if arguments.mesh_prefix is not None:
        raise OptionError("--mesh-prefix", arguments.mesh_prefix, "only with --urdf")
    if arguments.cameras is not None:
        check_cameras(tuple(arguments.cameras))
        if arguments.policy is not None and arguments.policy not in agent_options.SCRIPTED:
            raise OptionError("--cameras", arguments.cameras, "only without a SmolVLA policy, which brings its own")
    check_namespace(arguments.namespace)
    driven.check(arguments)


def _domain() -> int:
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal():
        raise OptionError("ROS_DOMAIN_ID", text, "a number from 0 to 232")
    return int(text)


def _run(arguments: argparse.Namespace) -> None:
    from smolvla_gym.integrations.bridge.namespace import check_namespace, claim
    from smolvla_gym.integrations.bridge.topics import FOLLOW, PUBLISHED, TAKEN
    from smolvla_gym.integrations.ros2.middleware import open_transport

    domain = _domain() if arguments.domain is None else arguments.domain
    with contextlib.ExitStack() as stack:
        transport = open_transport(arguments.transport, domain, arguments.interface, arguments.namespace)
        stack.callback(transport.close)
        claim(transport)
        cameras = ("wrist",) if arguments.cameras is None else tuple(arguments.cameras)
        env, agent = driven.driven_env(arguments, stack, cameras)
        bridge = driven.make_bridge(arguments, env, transport, agent, raw_images=arguments.raw_images)
        claim(transport, 0.0)  # a program that came meanwhile
        prefix = check_namespace(arguments.namespace)
        print(f"smolvla-gym: ROS domain {domain} through {transport.name}; Ctrl-C ends it", flush=True)
        print(f"  sends {', '.join(prefix + topic for topic in PUBLISHED)} and {prefix}/camera/...", flush=True)
        print(f"  takes {', '.join(prefix + topic for topic in TAKEN)}", flush=True)
        if bridge.has_action:
            print(f"  serves the action {prefix}{FOLLOW} (control_msgs/action/FollowJointTrajectory)", flush=True)
        bridge.run(threading.Event(), arguments.duration)
