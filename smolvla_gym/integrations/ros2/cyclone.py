"""ROS 2 messages over CycloneDDS, without ROS.

ROS 2 puts ``rt`` before the name of a topic and ``dds_`` into that of a type. It sends little-endian CDR version 1.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import weakref
from functools import cache
from typing import Any, Final

from smolvla_gym.errors import DeviceError, MissingExtraError
from smolvla_gym.integrations.bridge.topics import STOPS
from smolvla_gym.integrations.bridge.transport import Transport
from smolvla_gym.integrations.ros2.interface import ANY, LOOPBACK, check_interface, confined
from smolvla_gym.integrations.ros_messages import FIELDS, Message

try:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
    from cyclonedds.core import InstanceState, Listener, Policy, Qos, ReadCondition, SampleState, ViewState
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import IdlStruct, make_idl_struct, types
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration
except ImportError as _err:
    raise MissingExtraError("ROS 2 through CycloneDDS", "ros2", _err) from _err

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

_BATCH: Final = 32
"""Messages that one call of ``receive`` takes from a reader."""

_MAX_PUBLISHERS: Final = 5000
"""Publishers of a graph that are read."""


class CycloneTransport(Transport):
    """Transport by a participant of a DDS domain."""

    name = "cyclonedds"

    def __init__(self, domain: int, interface: str = "lo") -> None:
        """Join the domain.

        Args:
            domain: ROS domain.
            interface: Network interface; on ``"lo"`` no message goes to or comes from another computer. ``"any"``: all.

        Raises:
            DeviceError: There is no such interface.
        """
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
        self._problems: list[tuple[str, str]] = []

    def advertise(self, topic: str, datatype: str, depth: int = 1) -> None:
        """Prepare sending on a topic; a second call does nothing."""
        if topic not in self._writers:
            writer = DataWriter(self._participant, self._topic(topic, datatype), qos=_qos(depth))
            self._writers[topic] = writer, datatype

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepare receiving: stops from every publisher, other messages from reliable ones; the others are reported."""
        kind, name = idl_type(datatype), self._topic(topic, datatype)
        qualities = [_qos(_BATCH)]
        if topic.endswith(STOPS):
            # Best effort receives from every publisher; reliable asks for lost messages again; the last one receives a
            # latched stop that was sent before. A stop may arrive three times.
            latched = Policy.Durability.TransientLocal
            qualities += [_qos(_BATCH, Policy.Reliability.BestEffort), _qos(_BATCH, durability=latched)]
        listener = None if len(qualities) > 1 else Listener(on_requested_incompatible_qos=self._warn(topic))
        self._readers += [
            (topic, DataReader(self._participant, name, qos=quality, listener=listener), kind) for quality in qualities
        ]

    def _warn(self, topic: str) -> Any:
        def warn(*_: Any) -> None:
            why = "messages of a best-effort publisher are not received: use a reliable quality of service"
            self._problems.append((topic, why))

        return warn

    def problems(self) -> list[tuple[str, str]]:
        """Return topics and reasons of messages that could not be received since the last call."""
        found, self._problems = list(dict.fromkeys(self._problems)), []
        return found

    def other_publishers(self, topic: str) -> int:
        """Return how many other participants publish on a topic."""
        if self._publications is None:
            reader = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
            alive = ReadCondition(reader, ViewState.Any | InstanceState.Alive | SampleState.Any)
            self._publications = reader, alive
        reader, alive = self._publications
        own = self._participant.guid
        return sum(
            sample.topic_name == f"rt{topic}" and sample.participant_key != own
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
                    if topic.endswith(STOPS):
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
        return Topic(self._participant, f"rt{topic}", idl_type(datatype))


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
    fields: dict[str, Any] = {}
    for line in FIELDS[datatype].splitlines():
        kind, field = line.split()
        found = re.fullmatch(r"([\w/]+)(\[(\d*)\])?", kind)
        assert found is not None  # noqa: S101 - narrows a type
        base = _BASIC.get(found[1]) or idl_type(found[1])
        if found[2] is None:
            fields[field] = base
        else:
            fields[field] = types.array[base, int(found[3])] if found[3] else types.sequence[base]
    if not fields:  # DDS has no empty structures; ROS adds a byte
        fields["structure_needs_at_least_one_member"] = types.uint8
    # Classes with the same name in different packages are different types.
    bases = (_Image,) if datatype in _IMAGES else ()
    struct_type: type[Any] = make_idl_struct(
        f"{package}_{name}_", f"{package}::msg::dds_::{name}_", fields, bases=bases
    )
    return struct_type


def build_message(datatype: str, message: Message) -> Any:
    """Return a message as an instance of its class."""
    values: dict[str, Any] = {}
    for line in FIELDS[datatype].splitlines():
        kind, field = line.split()
        base, value = kind.split("[")[0], message[field]
        if base in _BASIC:
            values[field] = value
        else:
            values[field] = [build_message(base, part) for part in value] if "[" in kind else build_message(base, value)
    if not values:
        values["structure_needs_at_least_one_member"] = 0
    return idl_type(datatype)(**values)


class _Image(IdlStruct):
    """Message that is mostly bytes. CycloneDDS encodes them one by one, which takes 40 ms for an image."""

    def serialize(self, *args: Any, **options: Any) -> bytes:
        """Return the message in CDR."""
        return encode_image(self)


_IMAGES: Final = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")


def encode_image(message: Any) -> bytes:
    """Encode a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage`` in CDR, version 1, little-endian."""
    stamp = message.header.stamp
    buffer = bytearray(struct.pack("<iI", stamp.sec, stamp.nanosec))
    _put_string(buffer, message.header.frame_id)
    if hasattr(message, "format"):
        _put_string(buffer, message.format)
    else:
        _align(buffer)
        buffer += struct.pack("<II", message.height, message.width)
        _put_string(buffer, message.encoding)
        buffer.append(message.is_bigendian)
        _align(buffer)
        buffer += struct.pack("<I", message.step)
    _align(buffer)
    buffer += struct.pack("<I", len(message.data))
    buffer += message.data
    return b"\x00\x01\x00\x00" + bytes(buffer) + bytes(-len(buffer) % 4)


def _align(buffer: bytearray) -> None:
    buffer += bytes(-len(buffer) % 4)


def _put_string(buffer: bytearray, text: str) -> None:
    _align(buffer)
    data = text.encode() + b"\0"
    buffer += struct.pack("<I", len(data)) + data
