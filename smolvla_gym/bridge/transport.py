"""How messages travel: what the bridge needs of ROS 2, of the page, or of whatever else may drive the arm."""

from __future__ import annotations

from abc import ABC, abstractmethod

from smolvla_gym.telemetry.ros_messages import Message


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
        """Leaves; doing it twice does no harm."""
