"""Messages of rclpy as dictionaries, and back."""

from __future__ import annotations

import array
import importlib
from typing import Any

from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.ros_messages import Message


def message_class(datatype: str, kind: str = "msg") -> Any:
    """Return a class of an installed package.

    Args:
        datatype: Such as ``"sensor_msgs/JointState"``.
        kind: ``"msg"`` or ``"action"``.

    Raises:
        DeviceError: The package is not installed, or has no such class.
    """
    package, name = datatype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as error:
        apt = f"apt-get install ros-$ROS_DISTRO-{package.replace('_', '-')}"
        raise DeviceError(f"The ROS package {package} is not installed ({error}): {apt}.") from error


def fill(message: Any, values: Message) -> Any:
    """Fill a message with values from a dictionary, and return it."""
    kinds = message.get_fields_and_field_types()
    for name, value in values.items():
        if isinstance(value, dict):
            fill(getattr(message, name), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            kind = message_class(kinds[name].removeprefix("sequence<").removesuffix(">"))
            setattr(message, name, [fill(kind(), part) for part in value])
        elif isinstance(value, bytes):
            setattr(message, name, array.array("B", value))
        else:
            setattr(message, name, value)
    return message


def to_dict(message: Any) -> Message:
    """Return a message as a dictionary."""
    return {name: _plain(getattr(message, name)) for name in message.get_fields_and_field_types()}


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, array.array) or hasattr(value, "tolist"):
        return value.tolist()
    return value
