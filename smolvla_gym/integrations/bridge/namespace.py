"""A name of its own for each arm in a graph."""

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
"""Seconds in which others in a graph are found."""


def check_namespace(text: str) -> str:
    """Returns a namespace as a prefix of topics: ``""``, or with one slash, before each part.

    Args:
        text: Such as ``"arm_1"`` or ``"/lab/arm_1"``; empty: none.

    Raises:
        OptionError: ROS 2 does not allow it.
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
    """A transport whose topics and actions all have a prefix."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        """Puts a prefix before every name.

        Args:
            transport: The way out.
            prefix: From :func:`check_namespace`.
        """
        self._transport, self._prefix = transport, prefix
        self.name = transport.name

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepares sending on a topic."""
        self._transport.advertise(self._prefix + topic, datatype, depth)

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepares receiving."""
        self._transport.subscribe(self._prefix + topic, datatype)

    def publish(self, topic: str, message: Message) -> None:
        """Sends a message."""
        self._transport.publish(self._prefix + topic, message)

    def receive(self) -> list[tuple[str, Message]]:
        """Returns what came."""
        return [(topic.removeprefix(self._prefix), message) for topic, message in self._transport.receive()]

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepares taking goals."""
        return self._transport.serve_action(self._prefix + name, datatype)

    def other_publishers(self, topic: str) -> int:
        """Returns how many others publish on a topic."""
        return self._transport.other_publishers(self._prefix + topic)

    def problems(self) -> list[tuple[str, str]]:
        """Returns what could not be heard."""
        return [(topic.removeprefix(self._prefix), why) for topic, why in self._transport.problems()]

    def close(self) -> None:
        """Leaves."""
        self._transport.close()


def claim(transport: Transport, seconds: float = DISCOVERY_S) -> None:
    """Takes ``/joint_states`` for this arm, and makes sure that no other program has it.

    It is advertised before others are looked for, so that of two programs that start together at least one refuses.

    Args:
        transport: The way into the graph.
        seconds: How long others are looked for.

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
