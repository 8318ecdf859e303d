"""Which middleware carries ROS 2's messages: that of an installation of ROS 2, or CycloneDDS without one."""

from __future__ import annotations

import importlib
from typing import Final

from smolvla_gym.errors import OptionError
from smolvla_gym.integrations.bridge.namespace import Namespaced, check_namespace
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.interface import check_interface

TRANSPORTS: Final = ("auto", "cyclonedds", "rclpy")
"""``"auto"`` takes rclpy where it can be imported, and CycloneDDS, which needs no ROS, elsewhere."""


def open_transport(kind: str, domain: int, interface: str, namespace: str = "") -> Transport:
    """Joins a ROS 2 graph.

    Args:
        kind: One of ``TRANSPORTS``.
        domain: ROS domain, 0 to 232.
        interface: Network interface that messages are kept on, such as ``"lo"``; ``"any"``: all of them, or those of
            ROS's own variables.
        namespace: What stands before the names of all topics, services and actions, such as ``"arm_1"``.

    Raises:
        OptionError: A value is not allowed.
        DeviceError: There is no such interface, or messages cannot be kept on it.
        MissingExtraError: The middleware is not installed.
    """
    if kind not in TRANSPORTS:
        raise OptionError("transport", kind, f"one of {', '.join(TRANSPORTS)}")
    if not 0 <= domain <= 232:
        raise OptionError("domain", domain, "0 to 232")
    prefix = check_namespace(namespace)
    check_interface(interface)
    if kind == "auto":
        try:  # it may be there for another Python
            importlib.import_module("rclpy")
            kind = "rclpy"
        except ImportError:
            kind = "cyclonedds"
    transport: Transport
    if kind == "rclpy":
        from smolvla_gym.integrations.ros2.rclpy_transport import RclpyTransport

        transport = RclpyTransport(domain, interface, prefix)
    else:
        from smolvla_gym.integrations.ros2.cyclone import CycloneTransport

        transport = CycloneTransport(domain, interface)
    return Namespaced(transport, prefix) if prefix else transport
