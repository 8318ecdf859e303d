"""Choice of the transport of ROS 2's messages: rclpy of a ROS 2 installation, or CycloneDDS without one."""

from __future__ import annotations

import importlib
from typing import Final

from smolvla_gym.errors import OptionError
from smolvla_gym.integrations.bridge.namespace import check_namespace
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.interface import check_interface

TRANSPORTS: Final = ("auto", "cyclonedds", "rclpy")
"""``"auto"`` is rclpy if it can be imported, and else CycloneDDS, which needs no ROS."""


def open_transport(kind: str, domain: int, interface: str, namespace: str = "") -> Transport:
    """Join a ROS 2 graph.

    Args:
        kind: One of ``TRANSPORTS``.
        domain: ROS domain, 0 to 232.
        interface: Network interface of the messages, such as ``"lo"``; ``"any"``: all of them, or with rclpy those of
            ROS's own variables.
        namespace: Prefix of the names of all topics, services and actions, such as ``"arm_1"``.

    Raises:
        OptionError: A value is not allowed.
        DeviceError: There is no such interface, messages cannot be kept on it, or rclpy cannot be imported.
        MissingExtraError: CycloneDDS is not installed.
    """
    if kind not in TRANSPORTS:
        raise OptionError("transport", kind, f"one of {', '.join(TRANSPORTS)}")
    if not 0 <= domain <= 232:
        raise OptionError("domain", domain, "0 to 232")
    prefix = check_namespace(namespace)
    check_interface(interface)
    if kind == "auto":
        try:  # an rclpy of another Python is found and fails
            importlib.import_module("rclpy")
            kind = "rclpy"
        except ImportError:
            kind = "cyclonedds"
    if kind == "rclpy":
        from smolvla_gym.integrations.ros2.rclpy_transport import RclpyTransport

        return RclpyTransport(domain, interface, prefix)
    from smolvla_gym.integrations.ros2.cyclone import CycloneTransport

    return CycloneTransport(domain, interface, prefix)
