"""A program in ROS 2 that drives the arm: looks where it is, sends a trajectory, and lets the policy do the rest.

    uv run python examples/ros2_node.py                # starts `smolvla-gym ros2` with the simulated arm, and ends it
    smolvla-gym ros2 --policy bundled --env real       # or the real one, in another terminal, and then
    uv run python examples/ros2_node.py --running

No ROS has to be installed: without rclpy the messages go over CycloneDDS, as the bridge's do. A node of yours needs
nothing of this package, only the topics and types below.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.topics import PUBLISHED, TAKEN
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.middleware import open_transport
from smolvla_gym.parol6 import JOINT_NAMES


class Node:
    """Keeps the last message of each topic, and all events."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.last: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        for topic, datatype in TAKEN.items():  # /joint_trajectory is a trajectory_msgs/JointTrajectory, and so on
            transport.advertise(topic, datatype)
        for topic, datatype in PUBLISHED.items():
            transport.subscribe(topic, datatype)

    def send(self, topic: str, message: dict[str, Any]) -> None:
        """Sends a message."""
        self._transport.publish(topic, message)

    def wait(self, what: str, there: Callable[[], Any], seconds: float) -> bool:
        """Listens until something is there; returns whether it came in time."""
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                print(f"{what}: not within {seconds:g} s")
                return False
            for topic, message in self._transport.receive():
                self.last[topic] = message
                if topic == "/events":
                    self.events.append(json.loads(message["data"]))
                    print(f"  event {self.events[-1]}", flush=True)
            time.sleep(0.01)
        return True

    def happened(self, kind: str) -> bool:
        """Whether there was such an event."""
        return any(event["event"] == kind for event in self.events)

    @property
    def joints(self) -> list[float]:
        """Where the arm is, in rad."""
        state = self.last["/joint_states"]  # it names the jaws of the gripper too, in m
        return [state["position"][state["name"].index(joint)] for joint in JOINT_NAMES]

    @property
    def status(self) -> dict[str, Any]:
        """What the bridge tells of itself."""
        status: dict[str, Any] = json.loads(self.last["/status"]["data"])
        return status


@contextlib.contextmanager
def bridge(policy: str, domain: int, namespace: str) -> Iterator[None]:
    """Runs the simulated arm as a node, on this machine alone."""
    command = [sys.executable, "-m", "smolvla_gym", "ros2", "--policy", policy, "--domain", str(domain)]
    command += ["--namespace", namespace]
    with subprocess.Popen(command) as program:  # noqa: S603 - this Python, no shell
        try:
            yield
        finally:
            program.terminate()


def drive(node: Node, instruction: str | None, seconds: float) -> bool:
    """Drives the arm; returns whether all went well."""
    if not node.wait("joint states", lambda: "/joint_states" in node.last and "/status" in node.last, 60.0):
        return False
    time.sleep(1.0)  # the bridge finds what we send later than we find what it sends
    begin = node.joints
    tool = next(t for t in node.last["/tf"]["transforms"] if t["child_frame_id"] == "tool")["transform"]["translation"]
    where = [round(tool[axis], 3) for axis in "xyz"]
    print(f"joints at {[round(angle, 3) for angle in begin]} rad, tool at {where} m")

    # A trajectory. What cannot be followed to its end is refused before anything moves, and each one that is accepted
    # ends with trajectory_done, trajectory_aborted or trajectory_preempted. With rclpy there is the action, too:
    # /joint_trajectory_controller/follow_joint_trajectory.
    goal = [begin[0] + 0.3, *begin[1:5], begin[5] - 0.3]
    middle = [(one + other) / 2 for one, other in zip(begin, goal, strict=True)]
    points = [
        {"positions": where, "velocities": [], "accelerations": [], "effort": [],
         "time_from_start": {"sec": when, "nanosec": 0}}
        for where, when in ((middle, 1), (goal, 2))
    ]  # fmt: skip
    node.send("/joint_trajectory", {"header": ros.header(0.0), "joint_names": list(JOINT_NAMES), "points": points})
    if not node.wait("end of the trajectory", lambda: node.happened("trajectory_done"), 15.0):
        return False
    node.wait("rest", lambda: max(abs(a - b) for a, b in zip(node.joints, goal, strict=True)) < 0.01, 3.0)
    print(f"joints at {[round(angle, 3) for angle in node.joints]} rad")

    # The policy takes over, until it is told to stop or somebody presses /estop, which holds until /clear_fault.
    node.send("/instruction", {"data": instruction or node.status["instruction"]})
    node.send("/start", {})
    if not node.wait("start of the policy", lambda: node.happened("started"), 10.0):
        return False
    solved = node.wait("success", lambda: node.status["is_success"], seconds)
    print(f"{node.status['instruction']!r}: {'solved' if solved else 'not solved yet'}")
    node.send("/stop", {})
    return node.wait("stop", lambda: node.happened("stopped"), 10.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", action="store_true", help="drive a bridge that runs already")
    parser.add_argument("--policy", default="bundled", help="of the bridge that is started (default: %(default)s)")
    parser.add_argument("--domain", type=int, default=0, help="ROS domain (default: %(default)s)")
    parser.add_argument("--interface", default="lo", help="network interface, or any (default: %(default)s)")
    parser.add_argument("--namespace", default="", help="of the arm, such as arm_1 (default: none)")
    parser.add_argument("--instruction", help="what to do, in words (default: what the scene asks for)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long the policy may try")
    args = parser.parse_args()

    with contextlib.nullcontext() if args.running else bridge(args.policy, args.domain, args.namespace):
        transport = open_transport("auto", args.domain, args.interface, args.namespace)
        try:
            return 0 if drive(Node(transport), args.instruction, args.seconds) else 1
        finally:
            transport.close()


if __name__ == "__main__":
    sys.exit(main())
