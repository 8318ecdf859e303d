"""Namespaces: a name of its own for each arm in a ROS graph."""

from __future__ import annotations

import re
import time
from typing import Final

from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros_messages import Message

_TOKEN: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*_?|_[A-Za-z0-9]+(_[A-Za-z0-9]+)*_?")
_LONGEST: Final = 150

DISCOVERY_S: Final = 2.0
"""Time in s within which other programs in a graph are discovered."""


def check_namespace(text: str) -> str:
    """Return a namespace as a prefix of topics: ``""``, or with one slash, before each part.

    Args:
        text: Namespace, such as ``"arm_1"`` or ``"/lab/arm_1"``; empty: none.

    Raises:
        OptionError: ROS 2 does not allow this namespace.
    """
    parts = text.removeprefix("/").split("/")
    if text in ("", "/"):
        return ""
    if len(text) > _LONGEST or not all(_TOKEN.fullmatch(part) for part in parts):
        allowed = (
            "parts of the letters a to z, digits and single underscores that do not begin with a digit, with one slash "
            f"between them and none at the end, up to {_LONGEST} characters, such as arm_1 or lab/arm_1"
        )
        raise OptionError("namespace", text, allowed)
    return "/" + "/".join(parts)


class Namespaced(Transport):
    """Transport whose topics and actions all have a prefix."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        """Add a prefix to every name.

        Args:
            transport: Transport that carries the messages.
            prefix: Prefix of :func:`check_namespace`.
        """
        self._transport, self._prefix = transport, prefix
        self.name: str = transport.name

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepare sending on a topic."""
        self._transport.advertise(self._prefix + topic, datatype, depth)

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepare receiving."""
        self._transport.subscribe(self._prefix + topic, datatype)

    def publish(self, topic: str, message: Message) -> None:
        """Send a message."""
        self._transport.publish(self._prefix + topic, message)

    def receive(self) -> list[tuple[str, Message]]:
        """Return the received messages."""
        return [(topic.removeprefix(self._prefix), message) for topic, message in self._transport.receive()]

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepare receiving goals of an action."""
        return self._transport.serve_action(self._prefix + name, datatype)

    def other_publishers(self, topic: str) -> int:
        """Return the number of other publishers of a topic."""
        return self._transport.other_publishers(self._prefix + topic)

    def problems(self) -> list[tuple[str, str]]:
        """Return the problems of reception."""
        return [(topic.removeprefix(self._prefix), why) for topic, why in self._transport.problems()]

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()


def claim(transport: Transport, seconds: float = DISCOVERY_S) -> None:
    """Claim ``/joint_states`` for this arm, and make sure that no other program publishes it.

    The topic is advertised before other publishers are searched, so that of two programs that start together at least
    one refuses.

    Args:
        transport: Transport into the graph.
        seconds: Duration of the search.

    Raises:
        DeviceError: Another program publishes it: every command would move its arm and this one.
    """
    transport.advertise("/joint_states", "sensor_msgs/JointState")
    end = time.monotonic() + seconds
    while True:
        others = transport.other_publishers("/joint_states")
        if others:
            raise DeviceError(
                f"Another program already publishes /joint_states here ({others} found), such as a second bridge: each "
                "command would move both arms. End it, or give this arm a name of its own with --namespace NAME, or "
                "another --domain."
            )
        if time.monotonic() >= end:
            return
        time.sleep(0.02)
