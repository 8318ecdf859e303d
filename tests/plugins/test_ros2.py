"""The arm as a node, talked to over DDS as ROS 2 does; ``test_ros2_peers.py`` does it with a real ROS 2."""

from __future__ import annotations

import io
import json
import threading
import time
from xml.etree import ElementTree as ET

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cyclonedds")

import smolvla_gym
from smolvla_gym.cli.main import main
from smolvla_gym.errors import ActionError, DeviceError, FaultError, OptionError
from smolvla_gym.evaluation.scripted import ExpertAgent
from smolvla_gym.parol6 import GRIPPERS, HOME, JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, MAX_SPEED
from smolvla_gym.plugins.ros2.bridge import PUBLISHED, TAKEN, Bridge
from smolvla_gym.plugins.ros2.cyclone import CycloneTransport, _build, idl_type
from smolvla_gym.plugins.ros2.trajectory import Trajectory
from smolvla_gym.plugins.ros2.transport import open_transport
from smolvla_gym.plugins.ros2.urdf import roll_pitch_yaw, write_urdf
from smolvla_gym.sim.scene import GRIPPER_PREFIX, arm_spec
from smolvla_gym.telemetry import ros_messages as ros
from tests.envs.twin_rig import make_twin

DOMAIN = 97

# -- messages ----------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=9)
EXAMPLES = {
    "sensor_msgs/JointState": st.builds(
        lambda t, names, values: ros.joint_state(t, names, values),
        st.floats(0, 2e9), st.lists(words, max_size=4), st.lists(numbers, max_size=4),
    ),
    "sensor_msgs/CompressedImage": st.builds(
        lambda t, frame, kind, data: {"header": ros.header(t, frame), "format": kind, "data": data},
        st.floats(0, 2e9), words, words, st.binary(max_size=50),
    ),
    "tf2_msgs/TFMessage": st.builds(
        lambda t, names: {"transforms": [ros.transform(t, "world", name, np.ones(3), np.eye(3)) for name in names]},
        st.floats(0, 2e9), st.lists(words, max_size=3),
    ),
    "std_msgs/String": st.builds(lambda text: {"data": text}, words),
}  # fmt: skip


@pytest.mark.parametrize("datatype", list(EXAMPLES))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_bytes_are_those_of_another_encoder(datatype, data):
    """CycloneDDS, and our own encoder of pictures, against that of the package mcap_ros2."""
    writer = pytest.importorskip("mcap_ros2.writer")
    from mcap.reader import make_reader

    message = data.draw(EXAMPLES[datatype])
    file = io.BytesIO()
    mcap = writer.Writer(file)
    package, name = datatype.split("/")
    mcap.write_message("/x", mcap.register_msgdef(f"{package}/msg/{name}", ros.definition(datatype)), message)
    mcap.finish()
    (expected,) = [m.data for _, _, m in make_reader(io.BytesIO(file.getvalue())).iter_messages()]
    mine = bytes(_build(datatype, message).serialize(use_version_2=False))
    assert mine[4:].rstrip(b"\0") == expected[4:].rstrip(b"\0")
    assert len(mine) - len(expected) in range(4)  # padding at the end is free
    assert mine[:2] == b"\0\1"


def test_a_whole_picture():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    made = _build("sensor_msgs/Image", ros.image(5.25, "wrist_camera", picture))
    back = idl_type("sensor_msgs/Image").deserialize(made.serialize())
    assert (back.height, back.width, back.step, back.encoding) == (4, 6, 18, "rgb8")
    assert bytes(back.data) == picture.tobytes()
    assert (back.header.stamp.sec, back.header.stamp.nanosec) == (5, 250_000_000)


# -- trajectories ------------------------------------------------------------------------------------------------------


def trajectory(*points, names=JOINT_NAMES):
    return {
        "joint_names": list(names),
        "points": [
            {"positions": list(p), "time_from_start": {"sec": int(t), "nanosec": int(t % 1 * 1e9)}} for t, p in points
        ],
    }


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_it_passes_through_its_points(gaps, seed):
    rng = np.random.default_rng(seed)
    times = np.cumsum(np.round(gaps, 2))
    rows = rng.uniform(JOINT_LOWER, JOINT_UPPER, (len(times), 6))
    plan = Trajectory(trajectory(*zip(times, rows, strict=True)), HOME)
    assert plan.duration == pytest.approx(times[-1])
    now = 0.0
    for moment, row in zip(times, rows, strict=True):
        np.testing.assert_allclose(plan.advance(moment - now), row, atol=1e-6)
        now = moment
    assert plan.done
    np.testing.assert_allclose(plan.advance(5.0), rows[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (trajectory(), "without points"),
        (trajectory((1.0, HOME), names=[*JOINT_NAMES[:5], "elbow"]), "elbow"),
        (trajectory((1.0, HOME[:5])), "Point 0"),
        (trajectory((1.0, HOME), (1.0, HOME)), "Point 1 comes at 1 s"),
        (trajectory((1.0, HOME), (2.0, HOME + 9)), "Point 1 sends joint_1"),
        (trajectory((1.0, HOME * np.nan)), "Point 0"),
    ],
)
def test_what_cannot_be_followed_to_its_end_is_refused(message, why):
    with pytest.raises(ActionError, match=why):
        Trajectory(message, HOME)


def test_joints_that_are_not_named_stay():
    plan = Trajectory(trajectory((1.0, [0.5]), names=["joint_1"]), HOME)
    np.testing.assert_allclose(plan.advance(2.0), [0.5, *HOME[1:]])


# -- the bridge --------------------------------------------------------------------------------------------------------


class Commander(CycloneTransport):
    """The other end: takes what the bridge sends, and keeps it."""

    def __init__(self, domain):
        super().__init__(domain)
        self.seen = {}
        self.events = []
        for topic, datatype in TAKEN.items():
            self.advertise(topic, datatype)
        for topic, datatype in {**PUBLISHED, "/clock": "rosgraph_msgs/Clock"}.items():
            self.subscribe(topic, datatype)

    def look(self):
        for topic, message in self.receive():
            self.seen[topic] = message
            if topic == "/events":
                self.events.append(json.loads(message["data"]))

    def wait(self, true, seconds=15.0):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.events[-5:]
            self.look()
            time.sleep(0.01)

    def said(self, kind):
        return [event for event in self.events if event["event"] == kind]

    @property
    def joints(self):
        return np.array(self.seen["/joint_states"]["position"][:6])

    @property
    def status(self):
        return json.loads(self.seen["/status"]["data"])

    def joint_command(self, **joints):
        self.publish("/joint_commands", ros.joint_state(0.0, joints, joints.values()))


@pytest.fixture
def connect():
    """Runs a bridge in a thread, with the env in it, and returns the other end."""
    stop, threads, ends = threading.Event(), [], []

    def make(make_env=None, domain=DOMAIN, expert=False):
        def work():
            env = (
                make_env() if make_env else gym.make(smolvla_gym.SIM_ID, cameras=(), task="reach", max_episode_steps=-1)
            )
            transport = CycloneTransport(domain)
            try:
                Bridge(env, transport, agent=ExpertAgent(env) if expert else None, seed=3).run(stop, 60)
            finally:
                transport.close()
                env.close()

        end = Commander(domain)
        ends.append(end)
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        end.wait(lambda: "/joint_states" in end.seen and "/status" in end.seen, 40)
        time.sleep(1.0)  # the bridge's readers are found later than its writers
        return end

    yield make
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for end in ends:
        end.close()


@pytest.mark.realtime
def test_a_stream_of_commands_and_its_silence(connect):
    end = connect()
    begin = end.joints
    stop_at = time.monotonic() + 1.0
    while time.monotonic() < stop_at:
        end.joint_command(joint_1=2.1, gripper=0.25)
        end.look()
        time.sleep(0.03)
    assert end.status["mode"] == "commands"
    end.wait(lambda: end.said("commander_silent"))
    assert end.said("commander_silent")[0]["stopped"]
    time.sleep(0.5)
    end.look()
    stopped = end.joints
    assert begin[0] + 0.1 < stopped[0] < 2.05
    time.sleep(0.5)
    end.look()
    np.testing.assert_allclose(end.joints, stopped, atol=2e-3)
    assert end.status["opening"] == pytest.approx(0.25, abs=0.03)
    assert end.seen["/joint_states"]["name"] == [*JOINT_NAMES, "jaw_left", "jaw_right"]
    jaw = end.seen["/joint_states"]["position"][6]
    assert jaw == pytest.approx(0.25 * GRIPPERS["ssg48"].stroke, abs=1e-3)
    clock, stamp = end.seen["/clock"]["clock"], end.seen["/joint_states"]["header"]["stamp"]
    assert abs(clock["sec"] - stamp["sec"]) <= 1


@pytest.mark.parametrize(
    ("joints", "why"),
    [
        ({"elbow": 0.1}, "elbow"),
        ({"joint_1": float("nan")}, "finite"),
        ({}, "none given"),
        ({"joint_1": 57.0}, "joint_1 cannot go to 57"),  # degrees
        ({"gripper": 30.0}, "gripper cannot go to 30"),
    ],
)
@pytest.mark.realtime
def test_bad_commands_are_refused_and_nothing_moves(connect, joints, why):
    end = connect()
    begin = end.joints
    end.joint_command(**joints)
    end.wait(lambda: end.said("refused"))
    assert why in end.said("refused")[0]["why"]
    end.publish("/start", {})
    end.wait(lambda: len(end.said("refused")) > 1)
    assert "--policy" in end.said("refused")[1]["why"]
    end.look()
    np.testing.assert_allclose(end.joints, begin, atol=1e-3)


@pytest.mark.realtime
def test_a_trajectory_and_a_stop_in_its_middle(connect):
    end = connect()
    begin = end.joints
    goal = begin + np.array([0.3, 0.05, -0.05, 0.1, 0.1, -0.2])
    plan = trajectory((1.5, goal))
    for point in plan["points"]:
        point |= {"velocities": [], "accelerations": [], "effort": []}
    message = {"header": ros.header(0.0), **plan}
    end.publish("/joint_trajectory", message)
    end.wait(lambda: end.said("trajectory_done"))
    time.sleep(0.5)
    end.look()
    np.testing.assert_allclose(end.joints, goal, atol=np.deg2rad(0.5))
    back = {**message, "points": [{**message["points"][0], "positions": begin.tolist()}]}
    end.publish("/joint_trajectory", back)
    end.wait(lambda: len(end.said("trajectory")) == 2)
    time.sleep(0.5)
    end.publish("/stop", {})
    end.wait(lambda: end.said("stopped"))
    time.sleep(0.5)
    end.look()
    held = end.joints
    assert np.abs(held - begin).max() > 0.05
    time.sleep(0.3)
    end.look()
    np.testing.assert_allclose(end.joints, held, atol=2e-3)


@pytest.mark.realtime
def test_the_policy_drives_between_start_and_stop(connect):
    end = connect(expert=True)
    end.publish("/instruction", {"data": "go there"})
    end.wait(lambda: end.said("instruction"))
    end.publish("/start", {})
    end.wait(lambda: end.said("started"))
    assert end.said("started")[0]["instruction"] == "go there"
    end.joint_command(joint_1=0.0)
    end.wait(lambda: end.said("refused"))
    assert "policy drives" in end.said("refused")[0]["why"]
    end.wait(lambda: end.status["is_success"], 30)
    end.publish("/stop", {})
    end.wait(lambda: end.said("stopped"))
    end.publish("/reset", {})
    end.wait(lambda: len(end.said("ready")) >= 1)


@pytest.mark.realtime
def test_whoever_stops_drops_nothing(connect):
    """The jaws stay as they were told to be, though what they hold keeps them apart."""
    end = connect(lambda: gym.make(smolvla_gym.SIM_ID, cameras=(), task="lift", max_episode_steps=-1), expert=True)
    end.publish("/start", {})
    end.wait(lambda: end.said("started"))
    end.wait(lambda: end.status["is_success"], 40)
    held = end.status["opening"]
    assert held > 0.3
    end.publish("/stop", {})
    end.wait(lambda: end.said("stopped"))
    end.joint_command(joint_1=float(end.joints[0]))
    time.sleep(1.0)
    end.look()
    assert end.status["opening"] == pytest.approx(held, abs=0.02)
    assert end.status["is_success"]  # it still is in the air


@pytest.mark.realtime
def test_a_stop_outdoes_what_came_with_it(connect):
    end = connect()
    begin = end.joints
    end.publish("/stop", {})
    for _ in range(3):
        end.publish("/reset", {})
        end.joint_command(joint_1=2.0)
        end.publish("/stop", {})
        time.sleep(0.1)
    end.wait(lambda: end.said("stopped"))
    time.sleep(0.7)
    end.look()
    assert end.joints[0] < begin[0] + 0.3


@pytest.mark.realtime
def test_a_slow_arm_is_done_when_it_is_there(connect):
    end = connect()
    begin = end.joints
    goal = begin + np.array([1.5, 0, 0, 0, 0, 0])
    plan = trajectory((0.2, goal))
    for point in plan["points"]:
        point |= {"velocities": [], "accelerations": [], "effort": []}
    end.publish("/joint_trajectory", {"header": ros.header(0.0), **plan})
    end.wait(lambda: end.said("trajectory_done"))
    end.wait(lambda: abs(end.joints[0] - goal[0]) < 0.02, 0.5)


@pytest.mark.parametrize("body", ["sim", "twin"])
@pytest.mark.realtime
def test_the_emergency_stop_latches(connect, body):
    twin = {"cameras": (), "realtime": True, "max_episode_steps": -1}
    end = connect(None if body == "sim" else lambda: make_twin(**twin))
    begin = end.joints
    for _ in range(12):
        end.joint_command(joint_1=begin[0] + 1.0)
        time.sleep(0.03)
    end.publish("/estop", {"data": True})
    end.wait(lambda: end.said("fault"))
    end.wait(lambda: end.status["fault"] == "operator_stop")
    end.joint_command(joint_1=begin[0])
    end.wait(lambda: end.said("refused"))
    assert "/clear_fault" in end.said("refused")[0]["why"]
    time.sleep(1.0)
    end.look()
    held = end.joints
    time.sleep(0.3)
    end.look()
    np.testing.assert_allclose(end.joints, held, atol=2e-3)
    end.publish("/clear_fault", {})
    end.wait(lambda: end.said("cleared"))
    stop_at = time.monotonic() + 1.0
    while time.monotonic() < stop_at:
        end.joint_command(joint_1=held[0] + 0.3)
        end.look()
        time.sleep(0.03)
    assert end.joints[0] > held[0] + 0.05


@pytest.mark.parametrize("body", ["sim", "twin"])
def test_stop_of_the_env(body):
    env = gym.make(smolvla_gym.SIM_ID, cameras=()) if body == "sim" else make_twin()
    with env:
        env.reset(seed=1)
        action = env.unwrapped.expert_action()
        env.step(action)
        env.unwrapped.stop()
        for _ in range(3):
            _, _, _, truncated, info = env.step(action)
            if truncated:
                break
        assert truncated
        assert info["fault"] == "operator_stop"
        with pytest.raises(FaultError, match="operator_stop"):
            env.step(action)
        with pytest.raises(FaultError):
            env.reset()
        env.unwrapped.clear_fault()
        env.reset(seed=1)
        assert not env.step(action)[3]


def test_bad_options():
    with pytest.raises(OptionError, match="transport='zenoh'"):
        open_transport("zenoh", 0, "lo")
    with pytest.raises(OptionError, match="domain=300"):
        open_transport("cyclonedds", 300, "lo")
    with pytest.raises(DeviceError, match="nosuch0"):
        CycloneTransport(DOMAIN + 1, "nosuch0")


# -- the URDF ----------------------------------------------------------------------------------------------------------


def place(origin):
    x, y, z = (float(v) for v in origin.get("rpy").split())
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    pose = np.eye(4)
    pose[:3, :3] = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )
    pose[:3, 3] = [float(v) for v in origin.get("xyz").split()]
    return pose


def turn(axis, angle):
    matrix, quaternion = np.empty(9), np.empty(4)
    mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    pose = np.eye(4)
    pose[:3, :3] = matrix.reshape(3, 3)
    return pose


@pytest.fixture(scope="module", params=list(GRIPPERS))
def urdf(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("urdf")
    gripper = GRIPPERS[request.param]
    assert main(["ros2", "--urdf", str(folder), "--gripper", request.param]) == 0
    return ET.parse(folder / "parol6.urdf").getroot(), folder, gripper


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_link_is_where_the_simulation_has_it(urdf, seed):
    robot, _, gripper = urdf
    rng = np.random.default_rng(seed)
    joints = dict(zip(JOINT_NAMES, rng.uniform(JOINT_LOWER, JOINT_UPPER), strict=True))
    joints |= dict.fromkeys(("jaw_left", "jaw_right"), rng.uniform(0, gripper.stroke))
    model = arm_spec(gripper).compile()
    data = mujoco.MjData(model)
    for name, value in joints.items():
        full = name if name in JOINT_NAMES else GRIPPER_PREFIX + name
        data.qpos[model.joint(full).qposadr[0]] = value
    mujoco.mj_kinematics(model, data)

    poses = {"base": np.eye(4)}
    for joint in robot.findall("joint"):  # parents come first
        pose = poses[joint.find("parent").get("link")] @ place(joint.find("origin"))
        if joint.get("type") != "fixed":
            axis = np.array([float(v) for v in joint.find("axis").get("xyz").split()])
            value = joints[joint.get("name")]
            if joint.get("type") == "prismatic":
                pose = pose @ np.block([[np.eye(3), (axis * value)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
            else:
                pose = pose @ turn(axis, value)
        poses[joint.find("child").get("link")] = pose
    origin = np.eye(4)
    base = model.body("base").id
    origin[:3, :3], origin[:3, 3] = data.xmat[base].reshape(3, 3), data.xpos[base]
    assert len(poses) == model.nbody - 1
    for index in range(1, model.nbody):
        name = model.body(index).name.removeprefix(GRIPPER_PREFIX)
        pose = origin @ poses[name]
        np.testing.assert_allclose(pose[:3, 3], data.xpos[index], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(pose[:3, :3], data.xmat[index].reshape(3, 3), atol=1e-6, err_msg=name)


def test_masses_limits_and_meshes(urdf):
    robot, folder, gripper = urdf
    model = arm_spec(gripper).compile()
    masses = [float(mass.get("value")) for mass in robot.iter("mass")]
    assert sum(masses) == pytest.approx(model.body_subtreemass[0], rel=1e-4)
    for number, name in enumerate(JOINT_NAMES):
        limit = robot.find(f"joint[@name='{name}']/limit")
        assert float(limit.get("lower")) == pytest.approx(JOINT_LOWER[number], rel=1e-5)
        assert float(limit.get("upper")) == pytest.approx(JOINT_UPPER[number], rel=1e-5)
        assert float(limit.get("velocity")) == pytest.approx(MAX_SPEED[number], rel=1e-5)
    meshes = [mesh.get("filename") for mesh in robot.iter("mesh")]
    assert meshes
    for mesh in meshes:
        data = (folder / mesh).read_bytes()
        assert len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")
    assert len(robot.findall("link/collision")) >= 7


def test_mujoco_reads_it(urdf):
    """Another reader of URDF finds the same arm."""
    robot, folder, _ = urdf
    compiler = ET.SubElement(ET.SubElement(robot, "mujoco"), "compiler")
    compiler.attrib |= {"meshdir": str(folder), "strippath": "false", "discardvisual": "false", "fusestatic": "false"}
    model = mujoco.MjModel.from_xml_string(ET.tostring(robot, encoding="unicode"))
    assert model.njnt == 8
    np.testing.assert_allclose(model.jnt_range[:6], np.stack([JOINT_LOWER, JOINT_UPPER], axis=1), atol=1e-4)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_angles_of_a_rotation(quaternion):
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.array(quaternion) / np.linalg.norm(quaternion))
    rotation = matrix.reshape(3, 3)
    angles = roll_pitch_yaw(rotation)
    element = ET.Element("origin", xyz="0 0 0", rpy=" ".join(map(repr, angles.tolist())))
    np.testing.assert_allclose(place(element)[:3, :3], rotation, atol=1e-6)


def test_a_folder_that_cannot_be_made(tmp_path):
    from smolvla_gym.errors import RecordingError

    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="file"):
        write_urdf(tmp_path / "file", GRIPPERS["ssg48"])


@pytest.mark.realtime
def test_a_stop_is_heard_while_the_arm_drives_by_itself(connect):
    end = connect(lambda: make_twin(cameras=(), realtime=True, max_episode_steps=-1))
    start = end.joints
    away = start[0] + 1.6
    stop_at = time.monotonic() + 15
    while end.joints[0] < away - 0.05:
        assert time.monotonic() < stop_at
        end.joint_command(joint_1=away)
        end.look()
        time.sleep(0.03)
    end.publish("/reset", {})  # it drives back, for more than a second
    end.wait(lambda: end.said("reset"))
    time.sleep(0.3)
    end.publish("/estop", {"data": True})
    end.wait(lambda: end.said("fault"))
    end.wait(lambda: end.status["fault"] == "operator_stop")
    time.sleep(1.0)
    end.look()
    assert end.joints[0] > start[0] + 0.4
    end.publish("/clear_fault", {})
    end.wait(lambda: end.said("cleared"))
