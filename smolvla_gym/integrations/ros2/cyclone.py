"""ROS 2 messages over CycloneDDS, without ROS.

ROS 2 puts ``rt`` before a topic's name, ``dds_`` into a type's, and sends little-endian CDR of version 1.
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
except ImportError as err:
    raise MissingExtraError("ROS 2 without ROS", "ros2", err) from err

# Fast DDS of ROS 2 Kilted sends type information that Cyclone cannot read and would refuse: it is left alone. On the
# loopback, peers with ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, the default, are found by multicast; those with LOCALHOST
# one by one.
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

_TAKEN: Final = 32
"""Messages that are taken from a reader at a time."""

_PUBLICATIONS: Final = 5000
"""Publishers of a graph that are looked at."""


class CycloneTransport(Transport):
    """A participant of a DDS domain."""

    name = "cyclonedds"

    def __init__(self, domain: int, interface: str = "lo") -> None:
        """Joins the domain.

        Args:
            domain: ROS domain.
            interface: Network interface; on ``"lo"`` other computers are neither sent to nor heard. ``"any"``: all.

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
        """Prepares sending on a topic; doing it twice does no harm."""
        if topic not in self._writers:
            writer = DataWriter(self._participant, self._topic(topic, datatype), qos=_qos(depth))
            self._writers[topic] = writer, datatype

    def subscribe(self, topic: str, datatype: str) -> None:
        """Prepares receiving. Stops are heard from every publisher; others have to be reliable, or are reported."""
        kind, name = idl_type(datatype), self._topic(topic, datatype)
        qualities = [_qos(_TAKEN)]
        if topic.endswith(STOPS):
            # Best effort hears everybody; reliable asks for what got lost; the last one hears a latched stop that was
            # sent before. A stop may come three times.
            kept = Policy.Durability.TransientLocal
            qualities += [_qos(_TAKEN, Policy.Reliability.BestEffort), _qos(_TAKEN, durability=kept)]
        listener = None if len(qualities) > 1 else Listener(on_requested_incompatible_qos=self._warn(topic))
        self._readers += [
            (topic, DataReader(self._participant, name, qos=quality, listener=listener), kind) for quality in qualities
        ]

    def _warn(self, topic: str) -> Any:
        def warn(*_: Any) -> None:
            why = "a publisher is not heard, because its quality of service is not reliable: make it reliable"
            self._problems.append((topic, why))

        return warn

    def problems(self) -> list[tuple[str, str]]:
        """Returns what could not be heard since the last call."""
        found, self._problems = list(dict.fromkeys(self._problems)), []
        return found

    def other_publishers(self, topic: str) -> int:
        """Returns how many others publish on a topic."""
        if self._publications is None:
            reader = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
            alive = ReadCondition(reader, ViewState.Any | InstanceState.Alive | SampleState.Any)
            self._publications = reader, alive
        reader, alive = self._publications
        me = self._participant.guid
        return sum(
            sample.topic_name == f"rt{topic}" and sample.participant_key != me
            for sample in reader.read(_PUBLICATIONS, condition=alive)
        )

    def publish(self, topic: str, message: Message) -> None:
        """Sends a message."""
        writer, datatype = self._writers[topic]
        writer.write(_build(datatype, message))

    def receive(self) -> list[tuple[str, Message]]:
        """Returns what came. One that cannot be read counts as a stop where it came on a topic for stops."""
        came: list[tuple[str, Message]] = []
        for topic, reader, kind in self._readers:
            for _ in range(_TAKEN):  # one by one: a broken message takes no others with it
                try:
                    samples = reader.take(1)
                except Exception as error:
                    self._problems.append((topic, f"a message cannot be read ({error})"))
                    if topic.endswith(STOPS):
                        came.append((topic, {"data": True}))
                    continue
                if not samples:
                    break
                # Others are the news that a sender left.
                came += [(topic, dataclasses.asdict(sample)) for sample in samples if isinstance(sample, kind)]
        return came

    def close(self) -> None:
        """Leaves the graph."""
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
"""Those of this process: CycloneDDS makes each of them once."""


def _open_domain(number: int, config: str) -> Any:
    domain = _domains.get((number, config))
    if domain is None:
        domain = Domain(number, config)
        _domains[number, config] = domain
    return domain


@cache
def idl_type(datatype: str) -> type[Any]:
    """Returns the class of a message, such as of ``"sensor_msgs/JointState"``."""
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
    if not fields:  # DDS knows no empty structures; ROS puts a byte there
        fields["structure_needs_at_least_one_member"] = types.uint8
    # Classes with the same name in different packages are different types.
    bases = (_Picture,) if datatype in _PICTURES else ()
    made: type[Any] = make_idl_struct(f"{package}_{name}_", f"{package}::msg::dds_::{name}_", fields, bases=bases)
    return made


def _build(datatype: str, message: Message) -> Any:
    """Returns a message as an instance of its class."""
    values: dict[str, Any] = {}
    for line in FIELDS[datatype].splitlines():
        kind, field = line.split()
        base, value = kind.split("[")[0], message[field]
        if base in _BASIC:
            values[field] = value
        else:
            values[field] = [_build(base, part) for part in value] if "[" in kind else _build(base, value)
    if not values:
        values["structure_needs_at_least_one_member"] = 0
    return idl_type(datatype)(**values)


class _Picture(IdlStruct):
    """A message that is mostly bytes: CycloneDDS encodes those one by one, which takes 40 ms for a picture."""

    def serialize(self, *args: Any, **options: Any) -> bytes:
        """Returns the message in CDR."""
        return encode_picture(self)


_PICTURES: Final = ("sensor_msgs/Image", "sensor_msgs/CompressedImage")


def encode_picture(message: Any) -> bytes:
    """Encodes a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage`` in CDR, version 1, little-endian."""
    stamp = message.header.stamp
    body = bytearray(struct.pack("<iI", stamp.sec, stamp.nanosec))
    _put_string(body, message.header.frame_id)
    if hasattr(message, "format"):
        _put_string(body, message.format)
    else:
        _align(body)
        body += struct.pack("<II", message.height, message.width)
        _put_string(body, message.encoding)
        body.append(message.is_bigendian)
        _align(body)
        body += struct.pack("<I", message.step)
    _align(body)
    body += struct.pack("<I", len(message.data))
    body += message.data
    return b"\x00\x01\x00\x00" + bytes(body) + bytes(-len(body) % 4)


def _align(body: bytearray) -> None:
    body += bytes(-len(body) % 4)


def _put_string(body: bytearray, text: str) -> None:
    _align(body)
    data = text.encode() + b"\0"
    body += struct.pack("<I", len(data)) + data
