"""ROS 2 messages through rclpy of a ROS 2 installation."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from smolvla_gym.errors import DeviceError
from smolvla_gym.integrations.bridge.topics import STOPS
from smolvla_gym.integrations.bridge.transport import GraphTransport
from smolvla_gym.integrations.ros2.interface import ANY, LOOPBACK, check_interface, confined
from smolvla_gym.integrations.ros2.rclpy_messages import fill, message_class, to_dict
from smolvla_gym.integrations.ros_messages import Message

try:
    import rclpy  # type: ignore[import-not-found, unused-ignore]
    from rclpy.context import Context  # type: ignore[import-not-found, unused-ignore]
    from rclpy.executors import SingleThreadedExecutor  # type: ignore[import-not-found, unused-ignore]
except ImportError as _err:
    raise DeviceError(
        f"rclpy cannot be imported ({_err}); it comes with ROS 2 and not with an extra of this package. Source ROS 2's "
        "setup.bash and use its Python, or use --transport cyclonedds, which needs no ROS 2."
    ) from _err

_DEPTH: Final = 32
"""Messages of a topic that may wait."""

_IDLE_SPINS: Final = 4
"""Spins in a row without a message after which none waits; some spins serve services and timers."""

_CONFINED: Final = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp", "rmw_cyclonedds_cpp")
"""Middlewares of ROS 2 that use UDP alone, so that they can be kept on an interface."""


class RclpyTransport(GraphTransport):
    """Transport by a node of rclpy."""

    name = "rclpy"

    def __init__(self, domain: int, interface: str = LOOPBACK, prefix: str = "") -> None:
        """Join the graph.

        Args:
            domain: ROS domain.
            interface: Network interface of the messages; ``"any"``: those of ROS's own variables.
            prefix: Namespace of the node, and prefix of the names of all topics and actions.

        Raises:
            DeviceError: The graph cannot be joined, or its messages cannot be kept on the interface.
        """
        super().__init__(prefix)
        check_interface(interface)
        self._context = Context()
        self._node: Any = None
        try:
            with _discovery(interface), confined(interface, required=True):
                rclpy.init(context=self._context, domain_id=domain)
                self._node = rclpy.create_node("parol6", namespace=prefix or None, context=self._context)
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
        self._received: list[tuple[str, Message]] = []

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepare sending on a topic; if the package of its messages is not installed, warn and leave the topic out."""
        if topic in self._publishers:
            return
        try:
            self._types[topic] = message_class(datatype)
        except DeviceError as error:
            warnings.warn(f"{topic} is not sent. {error}", stacklevel=2)
            return
        self._publishers[topic] = self._node.create_publisher(self._types[topic], self.prefix + topic, depth)

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepare receiving: stops from every publisher, other messages from reliable ones; the others are reported."""
        from rclpy.qos import (  # type: ignore[import-not-found, unused-ignore]
            DurabilityPolicy,
            QoSProfile,
            ReliabilityPolicy,
        )

        events = importlib.import_module("rclpy.qos_event" if _is_old() else "rclpy.event_handler")
        stops, kind = topic in STOPS, message_class(datatype)
        qualities = [QoSProfile(depth=_DEPTH)]
        if stops:
            # Best effort receives from every publisher; reliable asks for lost messages again; the last one receives a
            # latched stop that was sent before. A stop may arrive three times.
            qualities += [
                QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT),
                QoSProfile(depth=_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            ]
        # Another subscription to a stop receives from such a publisher.
        warn = (lambda _: None) if stops else (lambda _: self._report_mismatch(topic))
        for quality in qualities:
            self._node.create_subscription(
                kind, self.prefix + topic, lambda message: self._received.append((topic, to_dict(message))), quality,
                event_callbacks=events.SubscriptionEventCallbacks(incompatible_qos=warn, use_default_callbacks=False),
            )  # fmt: skip

    def publish(self, topic: str, message: Message) -> None:
        """Send a message, or the feedback or result of an action."""
        if topic in self._publishers:
            self._publishers[topic].publish(fill(self._types[topic](), message))
            return
        name, _, kind = topic.rpartition("/")
        if name in self._actions:
            self._actions[name].send(kind, message)

    def receive(self) -> list[tuple[str, Message]]:
        """Return the messages that arrived."""
        idle = 0
        for _ in range(2 * _DEPTH):
            before = len(self._received)
            try:
                self._executor.spin_once(timeout_sec=0)
            except UnicodeDecodeError as error:
                self._problems.append(("/", f"a message cannot be read ({error})"))
            idle = 0 if len(self._received) > before else idle + 1
            if idle > _IDLE_SPINS:
                break
        received, self._received = self._received, []
        return received

    def serve_action(self, name: str, datatype: str) -> bool:
        """Prepare taking goals; return whether the package of the action is installed."""
        from smolvla_gym.integrations.ros2.action_server import ActionServer

        try:
            self._actions[name] = ActionServer(self._node, self.prefix, name, datatype, self._deliver)
        except DeviceError as error:
            warnings.warn(f"The action {name} is not provided. {error}", stacklevel=2)
            return False
        return True

    def other_publishers(self, topic: str) -> int:
        """Return how many other nodes publish on a topic."""
        return int(self._node.count_publishers(self.prefix + topic)) - (topic in self._publishers)

    def close(self) -> None:
        """Leave the graph."""
        if self._context.ok():
            for action in self._actions.values():
                action.close()
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def _deliver(self, topic: str, message: Message) -> None:
        self._received.append((topic, message))


def _check_middleware(interface: str) -> None:
    """Check that the middleware can be kept on an interface.

    Raises:
        DeviceError: The middleware is not one of those that can.
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
    """Keep a middleware that starts on ``lo`` from announcing itself to other computers."""
    local: dict[str, str | None] = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": None}
    if _is_old():
        local = {"ROS_LOCALHOST_ONLY": "1"}
    before = {name: os.environ.get(name) for name in local}
    try:
        if interface == LOOPBACK:
            _set(local)
        yield
    finally:
        _set(before)


def _is_old() -> bool:
    """Return whether this is a release before Iron, which has another variable."""
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
