"""Drive the arm from ROS 2: read its state, send a trajectory, and let the policy do the task.

    uv run python examples/ros2_node.py                # starts and ends `smolvla-gym ros2` with the simulated arm
    smolvla-gym ros2 --policy bundled --env real --camera wrist=SERIAL --camera scene=SERIAL    # or the real arm
    uv run python examples/ros2_node.py --running

ROS need not be installed: without rclpy the messages go over CycloneDDS, as those of the bridge. A node of your own
does not need this package, only the topics and types below.
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

from smolvla_gym import JOINT_NAMES
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.topics import PUBLISHED, TAKEN
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.middleware import open_transport


class Node:
    """Node that keeps the last message of each topic, and all events."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.last: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        for topic, datatype in TAKEN.items():  # /joint_trajectory is a trajectory_msgs/JointTrajectory, and so on
            transport.advertise(topic, datatype)
        for topic, datatype in PUBLISHED.items():
            transport.subscribe(topic, datatype)

    def send(self, topic: str, message: dict[str, Any]) -> None:
        """Publish a message."""
        self._transport.publish(topic, message)

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> bool:
        """Receive messages until a condition holds; return whether it did in time."""
        end = time.monotonic() + seconds
        while not condition():
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
        """Return whether an event of this kind was received."""
        return any(event["event"] == kind for event in self.events)

    @property
    def joints(self) -> list[float]:
        """Joint angles in rad."""
        state = self.last["/joint_states"]  # also contains the jaws of the gripper, in m
        return [state["position"][state["name"].index(joint)] for joint in JOINT_NAMES]

    @property
    def status(self) -> dict[str, Any]:
        """Status of the bridge."""
        status: dict[str, Any] = json.loads(self.last["/status"]["data"])
        return status


@contextlib.contextmanager
def bridge(policy: str, domain: int, namespace: str) -> Iterator[None]:
    """Run the simulated arm as a node, on this machine alone."""
    command = [sys.executable, "-m", "smolvla_gym", "ros2", "--policy", policy, "--domain", str(domain)]
    command += ["--namespace", namespace]
    with subprocess.Popen(command) as program:  # noqa: S603 - this Python, no shell
        try:
            yield
        finally:
            program.terminate()


def drive(node: Node, instruction: str | None, seconds: float) -> bool:
    """Drive the arm; return whether every step succeeded."""
    if not node.wait("joint states", lambda: "/joint_states" in node.last and "/status" in node.last, 60.0):
        return False
    time.sleep(1.0)  # discovery: the bridge finds this node later than this node finds the bridge
    begin = node.joints
    tool = next(t for t in node.last["/tf"]["transforms"] if t["child_frame_id"] == "tool")["transform"]["translation"]
    position = [round(tool[axis], 3) for axis in "xyz"]
    print(f"joints at {[round(angle, 3) for angle in begin]} rad, tool at {position} m")

    # Before the arm moves, the bridge refuses a trajectory that it cannot follow to its end. Each accepted one ends
    # with trajectory_done, trajectory_aborted or trajectory_preempted. With rclpy the bridge also offers the action
    # /joint_trajectory_controller/follow_joint_trajectory.
    goal = [begin[0] + 0.3, *begin[1:5], begin[5] - 0.3]
    middle = [(one + other) / 2 for one, other in zip(begin, goal, strict=True)]
    points = [
        {"positions": joints, "velocities": [], "accelerations": [], "effort": [],
         "time_from_start": {"sec": seconds_from_start, "nanosec": 0}}
        for joints, seconds_from_start in ((middle, 1), (goal, 2))
    ]  # fmt: skip
    node.send("/joint_trajectory", {"header": ros.header(0.0), "joint_names": list(JOINT_NAMES), "points": points})
    if not node.wait("end of the trajectory", lambda: node.happened("trajectory_done"), 15.0):
        return False
    node.wait("rest", lambda: max(abs(a - b) for a, b in zip(node.joints, goal, strict=True)) < 0.01, 3.0)
    print(f"joints at {[round(angle, 3) for angle in node.joints]} rad")

    # The policy drives until a message on /stop or /estop; an e-stop is latched until /clear_fault.
    node.send("/instruction", {"data": instruction or node.status["instruction"]})
    node.send("/start", {})
    if not node.wait("start of the policy", lambda: node.happened("started"), 10.0):
        return False
    success = node.wait("success", lambda: node.status["is_success"], seconds)
    print(f"{node.status['instruction']!r}: {'success' if success else 'no success yet'}")
    node.send("/stop", {})
    return node.wait("stop", lambda: node.happened("stopped"), 10.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", action="store_true", help="use a running bridge")
    parser.add_argument("--policy", default="bundled", help="policy of the started bridge (default: %(default)s)")
    parser.add_argument("--domain", type=int, default=0, help="ROS domain (default: %(default)s)")
    parser.add_argument("--interface", default="lo", help="network interface, or any (default: %(default)s)")
    parser.add_argument("--namespace", default="", help="namespace of the arm, such as arm_1 (default: none)")
    parser.add_argument("--instruction", help="instruction (default: that of the scene)")
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit in s (default: %(default)s)")
    args = parser.parse_args()

    with contextlib.nullcontext() if args.running else bridge(args.policy, args.domain, args.namespace):
        transport = open_transport("auto", args.domain, args.interface, args.namespace)
        try:
            return 0 if drive(Node(transport), args.instruction, args.seconds) else 1
        finally:
            transport.close()


if __name__ == "__main__":
    sys.exit(main())
