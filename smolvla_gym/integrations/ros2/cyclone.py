"""ROS 2 messages over CycloneDDS, without ROS.

ROS 2 puts ``rt`` before the name of a topic and ``dds_`` into that of a type. It sends little-endian CDR version 1.
"""

from __future__ import annotations

import dataclasses
import struct
import weakref
from functools import cache
from typing import Any, Final, cast

from smolvla_gym.errors import DeviceError, needs_extra
from smolvla_gym.integrations.bridge.topics import STOPS
from smolvla_gym.integrations.bridge.transport import GraphTransport
from smolvla_gym.integrations.ros2.interface import ANY, LOOPBACK, check_interface, confined
from smolvla_gym.integrations.ros_messages import FIELDS, Message, fields

with needs_extra("ROS 2 through CycloneDDS", "ros2"):
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
    from cyclonedds.core import InstanceState, Listener, Policy, Qos, ReadCondition, SampleState, ViewState
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import IdlStruct, make_idl_struct, types
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration

# Fast DDS of ROS 2 Kilted sends type information that Cyclone cannot read and would refuse: Cyclone ignores it. On the
# loopback, multicast finds peers with ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, the default; those with LOCALHOST are
# addressed one by one.
_CONFIG: Final = """<CycloneDDS><Domain>
<General>
  {interfaces}
  <AllowMulticast>spdp</AllowMulticast>
</General>
<Discovery>
  <ParticipantIndex>auto</ParticipantIndex>
  <MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>
  {peers}
</Discovery>
<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>
</Domain></CycloneDDS>"""

_LOCAL: Final = '<Peers><Peer address="127.0.0.1"/></Peers>'

_BASIC: Final[dict[str, Any]] = {
    "bool": bool, "uint8": types.uint8, "int32": types.int32, "uint32": types.uint32, "float64": types.float64,
    "string": str,
}  # fmt: skip

_FORMATS: Final = {"bool": "?", "uint8": "B", "int32": "i", "uint32": "I", "float64": "d"}

_BATCH: Final = 32
"""Messages that one call of ``receive`` takes from a reader."""

_MAX_PUBLISHERS: Final = 5000
"""Publishers of a graph that are read."""


class CycloneTransport(GraphTransport):
    """Transport by a participant of a DDS domain."""

    name = "cyclonedds"

    def __init__(self, domain: int, interface: str = "lo", prefix: str = "") -> None:
        """Join the domain.

        Args:
            domain: ROS domain.
            interface: Network interface; on ``"lo"`` no message goes to or comes from another computer. ``"any"``: all.
            prefix: Prefix of the names of all topics.

        Raises:
            DeviceError: There is no such interface.
        """
        super().__init__(prefix)
        check_interface(interface)
        local = interface == LOOPBACK
        multicast = ' multicast="true"' if local else ""
        only = f'<Interfaces><NetworkInterface name="{interface}"{multicast}/></Interfaces>'
        config = _CONFIG.format(interfaces="" if interface == ANY else only, peers=_LOCAL if local else "")
        try:
            with confined(interface, required=False):
                self._domain = _open_domain(domain, config)
                self._participant = DomainParticipant(domain)
        except DeviceError:
            raise
        except Exception as error:
            raise DeviceError(
                f"CycloneDDS cannot join the domain {domain} on the network interface {interface!r} ({error})."
            ) from error
        self._writers: dict[str, tuple[Any, str]] = {}
        self._readers: list[tuple[str, Any, type[Any]]] = []
        self._publications: Any = None

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepare sending on a topic; a second call does nothing."""
        if topic not in self._writers:
            writer = DataWriter(self._participant, self._topic(topic, datatype), qos=_qos(depth))
            self._writers[topic] = writer, datatype

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepare receiving: stops from every publisher, other messages from reliable ones; the others are reported."""
        kind, name = idl_type(datatype), self._topic(topic, datatype)
        qualities = [_qos(_BATCH)]
        if topic in STOPS:
            # Best effort receives from every publisher; reliable asks for lost messages again; the last one receives a
            # latched stop that was sent before. A stop may arrive three times.
            latched = Policy.Durability.TransientLocal
            qualities += [_qos(_BATCH, Policy.Reliability.BestEffort), _qos(_BATCH, durability=latched)]
        warn = Listener(on_requested_incompatible_qos=lambda *_: self._report_mismatch(topic))
        listener = None if topic in STOPS else warn
        self._readers += [
            (topic, DataReader(self._participant, name, qos=quality, listener=listener), kind) for quality in qualities
        ]

    def other_publishers(self, topic: str) -> int:
        """Return how many other participants publish on a topic."""
        if self._publications is None:
            reader = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
            alive = ReadCondition(reader, ViewState.Any | InstanceState.Alive | SampleState.Any)
            self._publications = reader, alive
        reader, alive = self._publications
        own = self._participant.guid
        return sum(
            sample.topic_name == f"rt{self.prefix}{topic}" and sample.participant_key != own
            for sample in reader.read(_MAX_PUBLISHERS, condition=alive)
        )

    def publish(self, topic: str, message: Message) -> None:
        """Send a message."""
        writer, datatype = self._writers[topic]
        writer.write(build_message(datatype, message))

    def receive(self) -> list[tuple[str, Message]]:
        """Return the messages that arrived. An unreadable message on a topic for stops counts as a stop."""
        received: list[tuple[str, Message]] = []
        for topic, reader, kind in self._readers:
            for _ in range(_BATCH):  # one by one, so that a broken message does not discard others
                try:
                    samples = reader.take(1)
                except Exception as error:
                    self._problems.append((topic, f"a message cannot be read ({error})"))
                    if topic in STOPS:
                        received.append((topic, {"data": True}))
                    continue
                if not samples:
                    break
                # Other samples report that a sender has left.
                received += [(topic, dataclasses.asdict(sample)) for sample in samples if isinstance(sample, kind)]
        return received

    def close(self) -> None:
        """Leave the graph."""
        self._writers.clear()
        self._readers.clear()
        self._publications = self._participant = self._domain = None

    def _topic(self, topic: str, datatype: str) -> Any:
        return Topic(self._participant, f"rt{self.prefix}{topic}", idl_type(datatype))


def _qos(depth: int, reliability: Any = None, durability: Any = None) -> Any:
    reliable = Policy.Reliability.Reliable(duration(milliseconds=100))
    return Qos(
        reliable if reliability is None else reliability,
        Policy.Durability.Volatile if durability is None else durability,
        Policy.History.KeepLast(depth),
    )


_domains: weakref.WeakValueDictionary[tuple[int, str], Any] = weakref.WeakValueDictionary()
"""Domains of this process: CycloneDDS creates each of them once."""


def _open_domain(number: int, config: str) -> Any:
    domain = _domains.get((number, config))
    if domain is None:
        domain = Domain(number, config)
        _domains[number, config] = domain
    return domain


@cache
def idl_type(datatype: str) -> type[Any]:
    """Return the class of a message, such as of ``"sensor_msgs/JointState"``."""
    package, name = datatype.split("/")
    kinds: dict[str, Any] = {}
    for field in fields(datatype):
        kind = _BASIC.get(field.kind) or idl_type(field.kind)
        if field.length is not None:
            kind = types.array[kind, field.length] if field.length else types.sequence[kind]
        kinds[field.name] = kind
    if not kinds:  # DDS has no empty structures; ROS adds a byte
        kinds["structure_needs_at_least_one_member"] = types.uint8
    # Classes with the same name in different packages are different types.
    struct_type: type[Any] = make_idl_struct(
        f"{package}_{name}_", f"{package}::msg::dds_::{name}_", kinds, bases=(_Message,)
    )
    struct_type.datatype = datatype
    return struct_type


def build_message(datatype: str, message: Message) -> Any:
    """Return a message as an instance of its class, which can be sent."""
    built: Any = object.__new__(idl_type(datatype))
    built.content = message
    return built


class _Message(IdlStruct):
    """Message that encodes itself. CycloneDDS encodes bytes one by one, which takes 40 ms for an image."""

    datatype, content = "", None  # without annotations, which would be fields of the message

    def serialize(self, *args: Any, **options: Any) -> bytes:
        """Return the message in CDR, version 1, little-endian."""
        buffer, content = bytearray(), cast(Message, self.content)
        _encode(buffer, self.datatype, content)
        return b"\x00\x01\x00\x00" + bytes(buffer) + bytes(-len(buffer) % 4)


def _encode(buffer: bytearray, datatype: str, message: Message) -> None:
    for field in fields(datatype):
        value = message[field.name]
        if field.length == 0:
            _put(buffer, "I", len(value))
        if isinstance(value, bytes):
            buffer += value
            continue
        for entry in [value] if field.length is None else value:
            if field.kind in FIELDS:
                _encode(buffer, field.kind, entry)
            elif field.kind == "string":
                data = entry.encode() + b"\0"
                _put(buffer, "I", len(data))
                buffer += data
            else:
                _put(buffer, _FORMATS[field.kind], entry)
    if not fields(datatype):
        buffer.append(0)


def _put(buffer: bytearray, form: str, value: float) -> None:
    """Append a number at a multiple of its size."""
    buffer += bytes(-len(buffer) % struct.calcsize(form)) + struct.pack(f"<{form}", value)
