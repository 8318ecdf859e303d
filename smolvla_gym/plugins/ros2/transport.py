"""How messages travel: what the bridge needs of a middleware."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod

from smolvla_gym.errors import OptionError
from smolvla_gym.telemetry.ros_messages import Message

TRANSPORTS = ("auto", "cyclonedds", "rclpy")
"""``"auto"`` takes rclpy where it can be imported, and CycloneDDS, which needs no ROS, elsewhere."""


class Transport(ABC):
    """Sends and receives ROS 2 messages, which are dictionaries here; nothing runs beside the caller's thread."""

    name = ""

    @abstractmethod
    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepares sending on a topic, such as ``"/joint_states"`` of ``"sensor_msgs/JointState"``.

        Args:
            topic: The topic.
            datatype: Of its messages.
            depth: Messages that may wait for a slow receiver; older ones are dropped.
        """

    @abstractmethod
    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepares receiving."""

    @abstractmethod
    def publish(self, topic: str, message: Message) -> None:
        """Sends a message."""

    @abstractmethod
    def receive(self) -> list[tuple[str, Message]]:
        """Returns topic and message of all that came since the last call, topic after topic, oldest first."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the graph; doing it twice does no harm."""


def open_transport(kind: str, domain: int, interface: str) -> Transport:
    """Joins a ROS 2 graph.

    Args:
        kind: One of ``TRANSPORTS``.
        domain: ROS domain, 0 to 232.
        interface: Network interface, such as ``"lo"``; only CycloneDDS takes it, rclpy follows ROS's own variables.

    Raises:
        OptionError: A value is not allowed.
        MissingExtraError: The middleware is not installed.
    """
    if kind not in TRANSPORTS:
        raise OptionError("transport", kind, f"one of {', '.join(TRANSPORTS)}")
    if not 0 <= domain <= 232:
        raise OptionError("domain", domain, "0 to 232")
    if kind == "auto":
        try:  # it may be there for another Python
            importlib.import_module("rclpy")
            kind = "rclpy"
        except ImportError:
            kind = "cyclonedds"
    if kind == "rclpy":
        from smolvla_gym.plugins.ros2.rclpy_transport import RclpyTransport

        return RclpyTransport(domain)
    from smolvla_gym.plugins.ros2.cyclone import CycloneTransport

    return CycloneTransport(domain, interface)
