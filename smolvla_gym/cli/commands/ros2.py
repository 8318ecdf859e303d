"""``smolvla-gym ros2``: make the arm a node of a ROS 2 graph."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from dataclasses import dataclass
from typing import Final

from smolvla_gym.cli.options.agent import is_smolvla
from smolvla_gym.cli.options.arguments import at_least
from smolvla_gym.cli.options.bridge import BridgeOptions
from smolvla_gym.cli.options.parser import AddParser, command, option
from smolvla_gym.errors import OptionError

_EXAMPLES: Final = """examples:
  smolvla-gym ros2 --policy bundled                       the simulated arm; then, where ROS 2 is installed:
  ros2 topic echo /joint_states
  ros2 topic pub -r 10 /joint_commands sensor_msgs/JointState "{name: [joint_1], position: [0.5]}"
  ros2 topic pub --once /start std_msgs/Empty             the policy acts until /stop
  smolvla-gym ros2 --env real --port twin --camera twin   the same on the virtual twin
  smolvla-gym ros2 --urdf parol6                          write parol6/parol6.urdf and what MoveIt needs, and end
  smolvla-gym ros2 --urdf my_robot --mesh-prefix package://my_robot/meshes
"""


@dataclass(kw_only=True)
class Ros2Options(BridgeOptions):
    """Options of ``smolvla-gym ros2``."""

    policy: str | None = option(
        "policy that acts between /start and /stop: bundled, expert, a folder, a repository", None, metavar="P"
    )
    domain: int | None = option("ROS domain (default: ROS_DOMAIN_ID, or 0)", None, parse=at_least(0), metavar="N")
    transport: str = option("auto, cyclonedds or rclpy", "auto")
    interface: str = option(
        "network interface of the messages; lo: this machine alone; any: all, or, with rclpy, those of ROS's own "
        "variables", "lo", metavar="NAME",
    )  # fmt: skip
    namespace: str = option("prefix of every topic and action, such as arm_1 (default: none)", "", metavar="NAME")
    cameras: list[str] | None = option(
        "observed cameras (default: those of the policy, or wrist)", None, empty=True, metavar="NAME"
    )
    raw_images: bool = option("send images as sensor_msgs/Image, too", False)
    urdf: str | None = option(
        "write the arm's URDF, meshes, SRDF and MoveIt's controllers there, and end", None, metavar="DIR"
    )
    mesh_prefix: str | None = option(
        "with --urdf: prefix of a mesh's name, such as package://my_robot/meshes (default: file://, the folder on this "
        "machine)", None, metavar="URL",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse options as :meth:`BridgeOptions.check` does."""
        from smolvla_gym.integrations.bridge.namespace import check_namespace

        if self.mesh_prefix is not None:
            self.refuse("mesh_prefix", "only with --urdf")
        if self.cameras is not None and self.policy is not None and is_smolvla(self.policy):
            self.refuse("cameras", "only without a SmolVLA policy, which brings its own")
        check_namespace(self.namespace)
        super().check()


def run(options: Ros2Options) -> int:
    """Run the bridge until it is interrupted."""
    if options.urdf is not None:
        return _describe(options, options.urdf)
    options.check()
    with contextlib.redirect_stdout(sys.stderr):
        _run(options)
    return 0


add_parser: AddParser = command(
    "ros2", Ros2Options, run, examples=_EXAMPLES,
    help="Make the arm a node of a ROS 2 graph.",
    description="Sends joint states, images, tf, status and events of the simulated or the real arm to ROS 2, and "
    "takes joint commands, trajectories, instructions and stops from there. No ROS has to be installed. With rclpy "
    "and control_msgs it serves the action FollowJointTrajectory, by which MoveIt moves the arm.",
)  # fmt: skip


def _describe(options: Ros2Options, folder: str) -> int:
    """Write the arm's description."""
    from smolvla_gym.integrations.ros2.moveit import write_controllers
    from smolvla_gym.integrations.ros2.srdf import write_srdf
    from smolvla_gym.integrations.ros2.urdf import write_urdf
    from smolvla_gym.parol6 import get_gripper

    gripper = get_gripper(options.gripper)
    print(write_urdf(folder, gripper, options.mesh_prefix))
    print(write_srdf(folder, gripper))
    print(write_controllers(folder))
    return 0


def _domain() -> int:
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not text.isdecimal():
        raise OptionError("ROS_DOMAIN_ID", text, "a number from 0 to 232")
    return int(text)


def _run(options: Ros2Options) -> None:
    from smolvla_gym.integrations.bridge.namespace import check_namespace, claim
    from smolvla_gym.integrations.bridge.topics import FOLLOW, PUBLISHED, TAKEN
    from smolvla_gym.integrations.ros2.middleware import open_transport

    domain = _domain() if options.domain is None else options.domain
    with contextlib.ExitStack() as stack:
        transport = open_transport(options.transport, domain, options.interface, options.namespace)
        stack.callback(transport.close)
        claim(transport)
        if options.cameras is None:
            options.cameras = ["wrist"]
        env, agent = options.make(stack)
        bridge = options.make_bridge(env, transport, agent, raw_images=options.raw_images)
        claim(transport, 0.0)  # another program may have started meanwhile
        prefix = check_namespace(options.namespace)
        print(f"smolvla-gym: ROS domain {domain} through {transport.name}; Ctrl-C ends it", flush=True)
        print(f"  sends {', '.join(prefix + topic for topic in PUBLISHED)} and {prefix}/camera/...", flush=True)
        print(f"  takes {', '.join(prefix + topic for topic in TAKEN)}", flush=True)
        if bridge.has_action:
            print(f"  serves the action {prefix}{FOLLOW} (control_msgs/action/FollowJointTrajectory)", flush=True)
        bridge.run(threading.Event(), options.duration)
