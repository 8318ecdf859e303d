"""ROS 2 messages over an installation of ROS 2."""

from __future__ import annotations

import array
import importlib
import warnings
from typing import Any

from smolvla_gym.bridge.transport import Transport
from smolvla_gym.errors import DeviceError, MissingExtraError
from smolvla_gym.telemetry.ros_messages import Message

try:
    import rclpy  # type: ignore[import-not-found, unused-ignore]
    from rclpy.context import Context  # type: ignore[import-not-found, unused-ignore]
    from rclpy.executors import SingleThreadedExecutor  # type: ignore[import-not-found, unused-ignore]
except ImportError as err:
    raise MissingExtraError("ROS 2 through rclpy", "ros2", err) from err

_DEPTH = 32
"""Commands that may wait."""


class RclpyTransport(Transport):
    """A node."""

    name = "rclpy"

    def __init__(self, domain: int) -> None:
        """Joins the graph.

        Args:
            domain: ROS domain.
        """
        self._context = Context()
        try:
            rclpy.init(context=self._context, domain_id=domain)
        except Exception as error:
            raise DeviceError(f"rclpy cannot join the domain {domain}: {error}.") from error
        self._node = rclpy.create_node("parol6", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publishers: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._came: list[tuple[str, Message]] = []

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepares sending on a topic; one whose messages are not installed is left out, with a warning."""
        try:
            self._types[topic] = _message_class(datatype)
        except DeviceError as error:
            warnings.warn(f"{topic} is not sent. {error}", stacklevel=2)
            return
        self._publishers[topic] = self._node.create_publisher(self._types[topic], topic, depth)

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepares receiving."""
        self._node.create_subscription(
            _message_class(datatype), topic, lambda message: self._came.append((topic, _to_dict(message))), _DEPTH
        )

    def publish(self, topic: str, message: Message) -> None:
        """Sends a message."""
        if topic in self._publishers:
            self._publishers[topic].publish(_fill(self._types[topic](), message))

    def receive(self) -> list[tuple[str, Message]]:
        """Returns what came."""
        for _ in range(_DEPTH):
            before = len(self._came)
            self._executor.spin_once(timeout_sec=0)
            if len(self._came) == before:
                break
        came, self._came = self._came, []
        return came

    def close(self) -> None:
        """Leaves the graph."""
        if self._context.ok():
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)


def _message_class(datatype: str) -> Any:
    package, name = datatype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except ImportError as error:
        apt = f"apt-get install ros-$ROS_DISTRO-{package.replace('_', '-')}"
        raise DeviceError(f"The ROS package {package} is not installed ({error}): {apt}.") from error


def _fill(message: Any, values: Message) -> Any:
    kinds = message.get_fields_and_field_types()
    for name, value in values.items():
        if isinstance(value, dict):
            _fill(getattr(message, name), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            kind = _message_class(kinds[name].removeprefix("sequence<").removesuffix(">"))
            setattr(message, name, [_fill(kind(), part) for part in value])
        elif isinstance(value, bytes):
            setattr(message, name, array.array("B", value))
        else:
            setattr(message, name, value)
    return message


def _to_dict(message: Any) -> Message:
    return {name: _plain(getattr(message, name)) for name in message.get_fields_and_field_types()}


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return _to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, array.array) or hasattr(value, "tolist"):
        return value.tolist()
    return value
