"""Each arm has its own name in a graph, stops of every publisher arrive, and messages stay on their interface."""

from __future__ import annotations

import os
import socket
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("cyclonedds")
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from smolvla_gym.cli.main import main
from smolvla_gym.errors import DeviceError, OptionError
from smolvla_gym.integrations import ros_messages as ros
from smolvla_gym.integrations.bridge.namespace import check_namespace, claim
from smolvla_gym.integrations.ros2.cyclone import CycloneTransport, build_message, idl_type
from smolvla_gym.integrations.ros2.interface import admit, check_interface, confined, open_sockets
from smolvla_gym.integrations.ros2.middleware import open_transport

DOMAIN = 99
RELIABLE, BEST_EFFORT = Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.Reliability.BestEffort
VOLATILE, LATCHED = Policy.Durability.Volatile, Policy.Durability.TransientLocal


@pytest.fixture
def transport():
    opened = CycloneTransport(DOMAIN)
    yield opened
    opened.close()


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def writer(topic, datatype, *policies, kind=None):
    participant = DomainParticipant(DOMAIN)
    kind = idl_type(datatype) if kind is None else kind
    made = DataWriter(
        participant, Topic(participant, f"rt{topic}", kind), qos=Qos(*policies, Policy.History.KeepLast(1))
    )
    made.participant_of_test = participant
    return made


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("", ""), ("/", ""), ("arm_1", "/arm_1"), ("/lab/arm_1", "/lab/arm_1"), ("_x", "/_x"), ("A9/b_", "/A9/b_")],
)
def test_namespaces(text, prefix):
    assert check_namespace(text) == prefix


@pytest.mark.parametrize(
    "text", ["1arm", "arm 1", "arm-1", "a//b", "a/", "a__b", "~x", "a/2", "ärm", "a\n", "//a", "_", "x" * 200, "{a}"]
)
def test_namespaces_that_ros_does_not_allow(text):
    with pytest.raises(OptionError, match="namespace"):
        check_namespace(text)


@pytest.mark.parametrize("text", ["arm_1/", "/arm_1/", "lab/arm_1/"])
def test_a_namespace_with_a_slash_at_its_end_is_refused_as_ros_does(text):
    with pytest.raises(OptionError, match="none at the end") as refused:
        check_namespace(text)
    assert (refused.value.option, refused.value.value) == ("namespace", text)


def test_a_namespace_is_before_every_name(transport):
    arm = CycloneTransport(DOMAIN, prefix="/arm_1")
    arm.advertise("/events", "std_msgs/String")
    arm.subscribe("/estop", "std_msgs/Bool")
    transport.subscribe("/arm_1/events", "std_msgs/String")
    transport.advertise("/arm_1/estop", "std_msgs/Bool")
    there, back = [], []

    def arrive():
        arm.publish("/events", {"data": "x"})
        transport.publish("/arm_1/estop", {"data": True})
        there.extend(transport.receive())
        back.extend(arm.receive())
        return there and back

    until(arrive)
    assert there[0] == ("/arm_1/events", {"data": "x"})
    assert back[0] == ("/estop", {"data": True})
    assert arm.other_publishers("/estop") == 1
    arm.close()


def test_a_name_is_taken_once(transport):
    other = CycloneTransport(DOMAIN)
    try:
        claim(transport, 0.0)
        with pytest.raises(DeviceError, match="already publishes /joint_states"):
            claim(other, 10.0)
        claim(CycloneTransport(DOMAIN, prefix="/arm_2"), 0.3)
    finally:
        other.close()
    until(lambda: transport.other_publishers("/joint_states") == 0)
    claim(transport, 0.1)  # its own does not count


def test_a_commander_takes_no_name(transport):
    other = CycloneTransport(DOMAIN)
    other.subscribe("/joint_states", "sensor_msgs/JointState")
    other.advertise("/joint_commands", "sensor_msgs/JointState")
    claim(transport, 0.5)
    other.close()


def test_a_second_bridge_does_not_start(transport, capsys):
    claim(transport, 0.0)
    command = ["ros2", "--domain", str(DOMAIN), "--transport", "cyclonedds", "--cameras"]
    assert main(command) == 1
    refused = capsys.readouterr().err
    assert "--namespace" in refused
    assert "Traceback" not in refused


def test_a_bad_namespace_is_refused_before_anything_starts(capsys):
    assert main(["ros2", "--namespace", "my arm"]) != 0
    assert "--namespace my arm" in capsys.readouterr().err


# -- stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", [VOLATILE, LATCHED])
@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT])
@pytest.mark.parametrize(("topic", "datatype", "message"), [
    ("/estop", "std_msgs/Bool", {"data": True}), ("/stop", "std_msgs/Empty", {}),
])  # fmt: skip
def test_stops_are_received_from_every_publisher(transport, topic, datatype, message, reliability, durability):
    transport.subscribe(topic, datatype)
    stop = writer(topic, datatype, reliability, durability)
    came = []

    def arrives():
        stop.write(build_message(datatype, message))
        came.extend(transport.receive())
        return came

    until(arrives)
    assert came[0][0] == topic
    assert not transport.problems()


def test_a_latched_stop_from_before_is_received(transport):
    stop = writer("/estop", "std_msgs/Bool", RELIABLE, LATCHED)
    stop.write(build_message("std_msgs/Bool", {"data": True}))
    transport.subscribe("/estop", "std_msgs/Bool")
    until(lambda: ("/estop", {"data": True}) in transport.receive())


def test_a_commander_that_is_not_received_is_reported(transport):
    transport.subscribe("/joint_commands", "sensor_msgs/JointState")
    kept = writer("/joint_commands", "sensor_msgs/JointState", BEST_EFFORT, VOLATILE)
    found = []
    until(lambda: found.extend(transport.problems()) or found)
    assert found[0][0] == "/joint_commands"
    assert "reliable" in found[0][1]
    del kept


@pytest.mark.parametrize(("topic", "datatype"), [("/estop", "std_msgs/Bool"), ("/instruction", "std_msgs/String")])
def test_a_message_that_cannot_be_read_stops_the_arm_or_is_reported(transport, topic, datatype, monkeypatch):
    """Bytes that are no UTF-8, or cut off; the messages after it are read."""
    transport.subscribe(topic, datatype)
    kind = idl_type(datatype)
    good = build_message(datatype, {"data": True} if topic == "/estop" else {"data": "go"})
    source = writer(topic, datatype, RELIABLE, VOLATILE)
    came = []

    def arrives():
        source.write(good)
        came.extend(transport.receive())
        return came

    until(arrives)
    came.clear()
    broken = {"left": 1}
    real = kind.deserialize.__func__

    def deserialize(cls, *args, **options):
        if broken["left"]:
            broken["left"] -= 1
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return real(cls, *args, **options)

    monkeypatch.setattr(kind, "deserialize", classmethod(deserialize))
    for _ in range(2):
        source.write(good)
    time.sleep(0.2)
    came = transport.receive()
    assert any("cannot be read" in why for _, why in transport.problems())
    assert came
    assert all(name == topic for name, _ in came)
    if topic == "/estop":
        assert all(message["data"] for _, message in came)


# -- interfaces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cyclonedds", "auto"])
def test_an_interface_that_does_not_exist_is_refused_with_those_that_do(kind):
    with pytest.raises(DeviceError, match="no-such-interface") as refused:
        open_transport(kind, DOMAIN, "no-such-interface")
    assert all(name in str(refused.value) for _, name in socket.if_nameindex())
    check_interface("any")


linux = pytest.mark.skipif(sys.platform != "linux", reason="filters of sockets are Linux's")


@linux
def test_a_filter_lets_only_its_interfaces_through():
    loopback = socket.if_nametoindex("lo")
    for allowed, passes in (({loopback}, True), ({loopback, 9999}, True), ({9998, 9999}, False)):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox,
        ):
            inbox.bind(("0.0.0.0", 0))
            inbox.settimeout(0.1)
            admit(inbox, allowed)
            outbox.sendto(b"x", ("127.0.0.1", inbox.getsockname()[1]))
            if passes:
                assert inbox.recv(1) == b"x"
            else:
                with pytest.raises(TimeoutError):
                    inbox.recv(1)


@linux
def test_every_socket_of_a_transport_is_confined():
    before = set(open_sockets())
    transport = CycloneTransport(DOMAIN + 1)
    opened = {inode: handle for inode, handle in open_sockets().items() if inode not in before}
    assert opened
    for handle in opened.values():
        with socket.socket(fileno=socket.dup(handle)) as one:
            assert one.getsockopt(socket.SOL_SOCKET, 26) > 0  # instructions of its filter
    transport.close()


@linux
def test_what_cannot_be_confined_is_an_error():
    with pytest.raises(DeviceError, match="TCP"), confined("lo", required=True):
        kept = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    kept.close()
    with confined("any", required=True):
        pass


def test_elsewhere_rclpy_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DeviceError, match="--interface any"), confined("lo0", required=True):
        pass
    with confined("lo0", required=False):
        pass


def test_a_message_in_a_namespace_arrives():
    arm, other = (
        open_transport("cyclonedds", DOMAIN, "lo", "arm_1"),
        open_transport("cyclonedds", DOMAIN, "lo", "arm_2"),
    )
    me = CycloneTransport(DOMAIN)
    for one in (arm, other):
        one.subscribe("/joint_commands", "sensor_msgs/JointState")
    me.advertise("/arm_1/joint_commands", "sensor_msgs/JointState")
    came = []

    def arrives():
        me.publish("/arm_1/joint_commands", ros.joint_state(0.0, ["joint_1"], [0.5]))
        came.extend(arm.receive())
        return came

    until(arrives)
    assert came[0][0] == "/joint_commands"
    assert came[0][1]["position"] == [0.5]
    assert not other.receive()
    for one in (arm, other, me):
        one.close()


def test_rclpy_that_is_not_installed_is_no_missing_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.delitem(sys.modules, "smolvla_gym.integrations.ros2.rclpy_transport", raising=False)
    with pytest.raises(DeviceError, match="cyclonedds") as refused:
        open_transport("rclpy", DOMAIN, "lo")
    assert "pip install" not in str(refused.value)
    assert main(["ros2", "--domain", str(DOMAIN), "--transport", "rclpy", "--cameras"]) == 1
    assert "--transport cyclonedds" in capsys.readouterr().err


@linux
@pytest.mark.parametrize("rmw", ["rmw_fastrtps_cpp", "rmw_zenoh_cpp"])
def test_rclpy_is_kept_on_the_loopback_or_refused(monkeypatch, rmw):
    """A stand-in for rclpy: ROS's variables keep it on this machine while it starts, without static peers."""
    seen, ended = {}, []
    module, context, executors = ModuleType("rclpy"), ModuleType("rclpy.context"), ModuleType("rclpy.executors")
    module.init = lambda **_: seen.update(os.environ)
    module.shutdown = lambda **_: ended.append("context")
    module.create_node = lambda *_, **__: SimpleNamespace(destroy_node=lambda: ended.append("node"))
    module.get_rmw_implementation_identifier = lambda: rmw
    context.Context = lambda: SimpleNamespace(ok=lambda: True)
    executors.SingleThreadedExecutor = lambda **_: SimpleNamespace(add_node=lambda _: None, shutdown=lambda: None)
    events = ModuleType("rclpy.event_handler")
    for stand_in in (module, context, executors, events):
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.delitem(sys.modules, "smolvla_gym.integrations.ros2.rclpy_transport", raising=False)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv("ROS_STATIC_PEERS", "10.0.0.7")
    if rmw == "rmw_zenoh_cpp":
        with pytest.raises(DeviceError, match="rmw_zenoh_cpp"):
            open_transport("auto", DOMAIN, "lo")
    else:
        open_transport("auto", DOMAIN, "lo").close()
    assert ended == ["node", "context"]
    assert seen["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_STATIC_PEERS" not in seen
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"
    assert os.environ["ROS_STATIC_PEERS"] == "10.0.0.7"
    sys.modules.pop("smolvla_gym.integrations.ros2.rclpy_transport")
