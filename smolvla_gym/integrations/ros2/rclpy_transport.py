"""ROS 2 messages over an installation of ROS 2."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from smolvla_gym.errors import DeviceError, MissingExtraError
from smolvla_gym.integrations.bridge.topics import STOPS
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.interface import ANY, LOOPBACK, check_interface, confined
from smolvla_gym.integrations.ros2.rclpy_messages import fill, message_class, to_dict
from smolvla_gym.integrations.ros_messages import Message

try:
    import rclpy  # type: ignore[import-not-found, unused-ignore]
    from rclpy.context import Context  # type: ignore[import-not-found, unused-ignore]
    from rclpy.executors import SingleThreadedExecutor  # type: ignore[import-not-found, unused-ignore]
except ImportError as err:
    raise MissingExtraError("ROS 2 through rclpy", "ros2", err) from err

_DEPTH: Final = 32
"""Commands that may wait."""

_IDLE: Final = 4
"""Looks without a message after which none waits: some are for services and timers."""

_CONFINED: Final = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp", "rmw_cyclonedds_cpp")
"""Middlewares of ROS 2 that talk by UDP alone, so that they can be kept on an interface."""


class RclpyTransport(Transport):
    """A node."""

    name = "rclpy"

    def __init__(self, domain: int, interface: str = LOOPBACK, namespace: str = "") -> None:
        """Joins the graph.

        Args:
            domain: ROS domain.
            interface: Network interface that messages are kept on; ``"any"``: ROS's own variables decide.
            namespace: Of the node; topics are given with theirs.

        Raises:
            DeviceError: The graph cannot be joined, or its messages cannot be kept on the interface.
        """
        check_interface(interface)
        self._context = Context()
        self._node: Any = None
        try:
            with _discovery(interface), confined(interface, required=True):
                rclpy.init(context=self._context, domain_id=domain)
                self._node = rclpy.create_node("parol6", namespace=namespace or None, context=self._context)
                _check_middleware(interface)
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
        except Exception as error:
            if self._context.ok():
                if self._node is not None:
                    self._node.destroy_node()
                rclpy.shutdown(context=self._context)
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(f"rclpy cannot join the domain {domain}: {error}.") from error
        self._publishers: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._actions: dict[str, Any] = {}
        self._came: list[tuple[str, Message]] = []
        self._problems: list[tuple[str, str]] = []

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepares sending on a topic; one whose messages are not installed is left out, with a warning."""
        if topic in self._publishers:
            return
        try:
            self._types[topic] = message_class(datatype)
        except DeviceError as error:
            warnings.warn(f"{topic} is not sent. {error}", stacklevel=2)
            return
        self._publishers[topic] = self._node.create_publisher(self._types[topic], topic, depth)

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepares receiving. Stops are heard from every publisher; others have to be reliable, or are reported."""
        from rclpy.qos import (  # type: ignore[import-not-found, unused-ignore]
            DurabilityPolicy,
            QoSProfile,
            ReliabilityPolicy,
        )

        events = importlib.import_module("rclpy.qos_event" if _is_old() else "rclpy.event_handler")
        stops, kind = topic.endswith(STOPS), message_class(datatype)
        qualities = [QoSProfile(depth=_DEPTH)]
        if stops:
            # Best effort hears everybody; reliable asks for what got lost; the last one hears a latched stop that was
            # sent before. A stop may come three times.
            qualities += [
                QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT),
                QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            ]
        heard = self._ignore if stops else lambda _: self._unheard(topic)
        for quality in qualities:
            self._node.create_subscription(
                kind, topic, lambda message: self._came.append((topic, to_dict(message))), quality,
                event_callbacks=events.SubscriptionEventCallbacks(incompatible_qos=heard, use_default_callbacks=False),
            )  # fmt: skip

    def publish(self, topic: str, message: Message) -> None:
        """Sends a message, or the feedback or result of an action."""
        if topic in self._publishers:
            self._publishers[topic].publish(fill(self._types[topic](), message))
            return
        name, _, kind = topic.rpartition("/")
        if name in self._actions:
            self._actions[name].send(kind, message)

    def receive(self) -> list[tuple[str, Message]]:
        """Returns what came."""
        idle = 0
        for _ in range(2 * _DEPTH):
            before = len(self._came)
            try:
                self._executor.spin_once(timeout_sec=0)
            except UnicodeDecodeError as error:
                self._problems.append(("/", f"a message cannot be read ({error})"))
            idle = 0 if len(self._came) > before else idle + 1
            if idle > _IDLE:
                break
        came, self._came = self._came, []
        return came

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepares taking goals, where the package of the action is installed."""
        from smolvla_gym.integrations.ros2.action_server import ActionServer

        try:
            self._actions[name] = ActionServer(self._node, name, datatype, self._came_in)
        except DeviceError as error:
            warnings.warn(f"The action {name} is not provided. {error}", stacklevel=2)
            return False
        return True

    def other_publishers(self, topic: str) -> int:
        """Returns how many others publish on a topic."""
        return int(self._node.count_publishers(topic)) - (topic in self._publishers)

    def problems(self) -> list[tuple[str, str]]:
        """Returns what could not be heard since the last call."""
        found, self._problems = list(dict.fromkeys(self._problems)), []
        return found

    def close(self) -> None:
        """Leaves the graph."""
        if self._context.ok():
            for action in self._actions.values():
                action.close()
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def _came_in(self, topic: str, message: Message) -> None:
        self._came.append((topic, message))

    def _unheard(self, topic: str) -> None:
        why = "a publisher is not heard, because its quality of service is not reliable: make it reliable"
        self._problems.append((topic, why))

    def _ignore(self, _: object) -> None:
        """Does nothing: another subscription hears this publisher."""


def _check_middleware(interface: str) -> None:
    """Makes sure that what carries ROS 2's messages can be kept on an interface.

    Raises:
        DeviceError: It is not known for that.
    """
    name = rclpy.get_rmw_implementation_identifier()
    if interface != ANY and name not in _CONFINED:
        raise DeviceError(
            f"The middleware {name} cannot be kept on the network interface {interface!r}: set RMW_IMPLEMENTATION to "
            f"one of {', '.join(_CONFINED)}, use --transport cyclonedds, or --interface {ANY}, which lets other "
            "computers command the arm."
        )


@contextmanager
def _discovery(interface: str) -> Iterator[None]:
    """Keeps the middleware from announcing itself to other computers while it starts, where only ``lo`` is wanted."""
    wanted = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": None}
    if _is_old():
        wanted = {"ROS_LOCALHOST_ONLY": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    try:
        if interface == LOOPBACK:
            _set(wanted)
        yield
    finally:
        _set(before)


def _is_old() -> bool:
    """Tells whether this is a release before Iron, whose variable has another name."""
    try:
        importlib.import_module("rclpy.event_handler")
    except ImportError:
        return True
    return False


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
