"""How messages travel: what the bridge needs of ROS 2, of the page, or of whatever else may drive the arm."""

from __future__ import annotations

from abc import ABC, abstractmethod

from smolvla_gym.integrations.ros_messages import Message


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

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepares taking goals, as the topics that ``topics.FOLLOW`` describes; returns whether that is possible.

        Args:
            name: The action.
            datatype: Its type, such as ``"control_msgs/FollowJointTrajectory"``.
        """
        return False

    def other_publishers(self, topic: str) -> int:
        """Returns how many others are known to publish on a topic; 0 where there is nobody else."""
        return 0

    def problems(self) -> list[tuple[str, str]]:
        """Returns topic and reason of what could not be heard since the last call."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Leaves; doing it twice does no harm."""
