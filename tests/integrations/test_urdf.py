"""Descriptions of the arm for ROS against the simulation's model."""

from __future__ import annotations

import urllib.request
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smolvla_gym.cli.main import main
from smolvla_gym.integrations.bridge.topics import FOLLOW, JAWS
from smolvla_gym.integrations.ros2.urdf import roll_pitch_yaw, write_urdf
from smolvla_gym.parol6 import (
    GRIPPERS,
    JOINT_LOWER,
    JOINT_NAMES,
    JOINT_UPPER,
    MAX_SPEED,
    STALL_TORQUE,
    forward_kinematics,
)
from smolvla_gym.sim.scene import GRIPPER_PREFIX, arm_spec


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
    assert len(poses) == model.nbody  # and not the world, but the tip
    tip = data.site(GRIPPER_PREFIX + "tcp")
    np.testing.assert_allclose((origin @ poses["tcp"])[:3, 3], tip.xpos, atol=1e-6)
    np.testing.assert_allclose((origin @ poses["tcp"])[:3, :3], tip.xmat.reshape(3, 3), atol=1e-6)
    for index in range(1, model.nbody):
        name = model.body(index).name.removeprefix(GRIPPER_PREFIX)
        pose = origin @ poses[name]
        np.testing.assert_allclose(pose[:3, 3], data.xpos[index], atol=1e-6, err_msg=name)
        np.testing.assert_allclose(pose[:3, :3], data.xmat[index].reshape(3, 3), atol=1e-6, err_msg=name)


def test_masses_and_limits(urdf):
    robot, _, gripper = urdf
    model = arm_spec(gripper).compile()
    masses = [float(mass.get("value")) for mass in robot.iter("mass")]
    assert sum(masses) == pytest.approx(model.body_subtreemass[0], rel=1e-4)
    for number, name in enumerate(JOINT_NAMES):
        limit = robot.find(f"joint[@name='{name}']/limit")
        assert float(limit.get("lower")) == pytest.approx(JOINT_LOWER[number], rel=1e-5)
        assert float(limit.get("upper")) == pytest.approx(JOINT_UPPER[number], rel=1e-5)
        assert float(limit.get("velocity")) == pytest.approx(MAX_SPEED[number], rel=1e-5)
        assert float(limit.get("effort")) == pytest.approx(STALL_TORQUE[number], rel=1e-5)
    for jaw in JAWS:
        limit = robot.find(f"joint[@name='{jaw}']/limit")
        assert float(limit.get("upper")) == pytest.approx(gripper.stroke)
        assert float(limit.get("velocity")) == pytest.approx(gripper.jaw_speed)
        assert float(limit.get("effort")) > 0
    assert len(robot.findall("link/collision")) >= 7


def test_joints_are_those_of_joint_states(urdf):
    """``robot_state_publisher`` moves what ``/joint_states`` names; what it leaves out would not be drawn."""
    robot, _, _ = urdf
    assert {joint.get("name") for joint in robot.findall("joint") if joint.get("type") != "fixed"} == {
        *JOINT_NAMES,
        *JAWS,
    }


def test_meshes_are_urls_of_files_that_are_there(urdf):
    robot, _, _ = urdf
    meshes = [mesh.get("filename") for mesh in robot.iter("mesh")]
    assert meshes
    for mesh in meshes:
        assert mesh.startswith("file:///")
        with urllib.request.urlopen(mesh) as file:
            data = file.read()
        assert len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")


@pytest.mark.parametrize("prefix", ["package://my_robot/meshes", "meshes/"])
def test_meshes_of_a_package(tmp_path, prefix):
    assert main(["ros2", "--urdf", str(tmp_path), "--mesh-prefix", prefix]) == 0
    meshes = [mesh.get("filename") for mesh in ET.parse(tmp_path / "parol6.urdf").getroot().iter("mesh")]
    assert meshes
    for mesh in meshes:
        assert mesh.startswith(prefix)
        assert (tmp_path / "meshes" / mesh.removeprefix(prefix).lstrip("/")).is_file()


def test_a_prefix_without_a_urdf(capsys):
    assert main(["ros2", "--mesh-prefix", "package://my_robot"]) == 2
    assert "only with --urdf" in capsys.readouterr().err


def test_mujoco_reads_it(urdf):
    """Another reader of URDF finds the same arm, with all that is seen of it."""
    robot, folder, gripper = urdf
    model = mujoco.MjModel.from_xml_path(str(folder / "parol6.urdf"))
    assert model.njnt == 8
    np.testing.assert_allclose(model.jnt_range[:6], np.stack([JOINT_LOWER, JOINT_UPPER], axis=1), atol=1e-4)
    assert model.nmesh == len(list(robot.iter("mesh")))
    joints = np.random.default_rng(0).uniform(JOINT_LOWER, JOINT_UPPER)
    data = mujoco.MjData(model)
    data.qpos[:6] = joints
    mujoco.mj_kinematics(model, data)
    tip = model.body("tcp").id
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.xmat[tip].reshape(3, 3), data.xpos[tip]
    np.testing.assert_allclose(pose, forward_kinematics(joints, gripper), atol=1e-6)


def test_moveit_sees_a_free_arm_at_home_and_what_it_may_hit(urdf):
    """What the SRDF leaves to be checked does not touch at rest, and an arm that folds into its base is found."""
    robot, folder, gripper = urdf
    srdf = ET.parse(folder / "parol6.srdf").getroot()
    links = {link.get("name") for link in robot.findall("link")}
    disabled = {frozenset((p.get("link1"), p.get("link2"))) for p in srdf.findall("disable_collisions")}
    assert all(pair <= links for pair in disabled)
    chain = srdf.find("group[@name='arm']/chain")
    assert {chain.get("base_link"), chain.get("tip_link")} <= links

    spec = arm_spec(gripper)
    for exclude in spec.excludes:
        spec.delete(exclude)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_FILTERPARENT
    model = spec.compile()
    data = mujoco.MjData(model)

    def touching(joints):
        data.qpos[:6] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        names = [
            [model.body(model.geom_bodyid[geom]).name.removeprefix(GRIPPER_PREFIX) for geom in contact.geom]
            for contact in data.contact
            if contact.dist < 0 and all(model.geom_group[geom] == 3 for geom in contact.geom)
        ]
        return {frozenset(pair) for pair in names}

    for state in srdf.findall("group_state[@group='arm']"):
        joints = {joint.get("name"): float(joint.get("value")) for joint in state}
        assert not touching([joints[name] for name in JOINT_NAMES]) - disabled
    rng = np.random.default_rng(0)
    hit = set().union(*(touching(rng.uniform(JOINT_LOWER, JOINT_UPPER)) for _ in range(500)))
    base = {frozenset(pair) for pair in (("base", "link4"), ("base", "link5"), ("base", "gripper"))}
    assert hit - disabled >= base | {frozenset(("link2", "gripper"))}


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


def test_moveits_controllers_name_the_action_and_its_joints(urdf):
    yaml = pytest.importorskip("yaml")
    _, folder, _ = urdf
    manager = yaml.safe_load((folder / "moveit_controllers.yaml").read_text())["moveit_simple_controller_manager"]
    (name,) = manager["controller_names"]
    controller = manager[name]
    assert f"/{name}/{controller['action_ns']}" == FOLLOW
    assert controller["type"] == "FollowJointTrajectory"
    assert controller["joints"] == list(JOINT_NAMES)
