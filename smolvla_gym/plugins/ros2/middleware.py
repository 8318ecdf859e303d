"""Which middleware carries ROS 2's messages: that of an installation of ROS 2, or CycloneDDS without one."""

from __future__ import annotations

import importlib
from typing import Final

from smolvla_gym.bridge.transport import Transport
from smolvla_gym.errors import OptionError

TRANSPORTS: Final = ("auto", "cyclonedds", "rclpy")
"""``"auto"`` takes rclpy where it can be imported, and CycloneDDS, which needs no ROS, elsewhere."""


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
