"""Interface of the transports, such as ROS 2 or the page, that carry the bridge's messages."""

from __future__ import annotations

from abc import ABC, abstractmethod

from smolvla_gym.integrations.ros_messages import Message


class Transport(ABC):
    """Transport of ROS 2 messages, which are dictionaries here. It uses the caller's thread alone."""

    name = ""

    @abstractmethod
    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepare sending on a topic, such as ``"/joint_states"`` of ``"sensor_msgs/JointState"``.

        Args:
            topic: The topic.
            datatype: Type of its messages.
            depth: Messages that may wait for a slow receiver; older ones are dropped.
        """

    @abstractmethod
    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepare receiving from a topic."""

    @abstractmethod
    def publish(self, topic: str, message: Message) -> None:
        """Send a message."""

    @abstractmethod
    def receive(self) -> list[tuple[str, Message]]:
        """Return topic and message of everything received since the last call, topic after topic, oldest first."""

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepare receiving an action's goals, see ``topics.FOLLOW``; return whether the transport has actions.

        Args:
            name: Name of the action.
            datatype: Its type, such as ``"control_msgs/FollowJointTrajectory"``.
        """
        return False

    def other_publishers(self, topic: str) -> int:
        """Return the number of other programs that are known to publish on a topic."""
        return 0

    def problems(self) -> list[tuple[str, str]]:
        """Return topic and reason of each problem of reception since the last call."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Close the transport; a second call does nothing."""


class GraphTransport(Transport):
    """Transport into a ROS 2 graph, in which the names of all topics and actions have a prefix.

    Attributes:
        prefix: The prefix, as :func:`smolvla_gym.integrations.bridge.namespace.check_namespace` returns it.
    """

    def __init__(self, prefix: str) -> None:
        """Begin without problems.

        Args:
            prefix: The prefix.
        """
        self.prefix = prefix
        self._problems: list[tuple[str, str]] = []

    def problems(self) -> list[tuple[str, str]]:
        """Return topics and reasons of messages that could not be received since the last call."""
        found, self._problems = list(dict.fromkeys(self._problems)), []
        return found

    def _report_mismatch(self, topic: str) -> None:
        why = "messages of a best-effort publisher are not received: use a reliable quality of service"
        self._problems.append((topic, why))
