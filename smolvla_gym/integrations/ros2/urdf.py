"""URDF of the arm for RViz, MoveIt and others, made from the simulation's model."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.errors import RecordingError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, MAX_SPEED, STALL_TORQUE, Array, Gripper
from smolvla_gym.sim.scene import GRIPPER_PREFIX, arm_spec
from smolvla_gym.sim.shapes import Shape, collision_shapes, visible_shapes
from smolvla_gym.utils.json_file import save_text, whole_file

_JAW_FORCE: Final = 45.0
"""Largest force of a jaw in N in the URDF; the SSG-48 reaches 80 N at a current that its maker warns about."""

TIP: Final = "tcp"
"""Link at the tool centre point. The bridge calls its own frame ``tool``: in ROS a frame has one sender, and
``robot_state_publisher`` sends this one."""


def write_urdf(folder: str | Path, gripper: Gripper, mesh_prefix: str | None = None) -> Path:
    """Write ``parol6.urdf`` and its meshes.

    Links and joints are named as in the simulation: ``base``, ``link1`` to ``link6``, ``joint_1`` to ``joint_6``, with
    the board's angles, and ``jaw_left`` and ``jaw_right`` (in m, the right one mimics the left one). ``/joint_states``
    has the same names. MuJoCo reads the file too.

    Args:
        folder: Folder of the file; made if it is missing. The meshes go to ``meshes`` in it.
        gripper: The gripper that is mounted.
        mesh_prefix: Prefix of a mesh's name, such as ``"package://my_robot/meshes"``. RViz needs URLs; the
            default is that of the folder on this machine, ``file:///…/meshes``.

    Returns:
        The URDF.

    Raises:
        RecordingError: A file could not be written.
    """
    folder = Path(folder)
    prefix = (folder.absolute() / "meshes").as_uri() if mesh_prefix is None else mesh_prefix.rstrip("/")
    model = arm_spec(gripper).compile()
    robot = ET.Element("robot", name="parol6")
    # MuJoCo uses the file names of meshes alone; by default it discards visual shapes and merges fixed links.
    options = {"meshdir": "meshes", "strippath": "true", "discardvisual": "false", "fusestatic": "false"}
    ET.SubElement(ET.SubElement(robot, "mujoco"), "compiler", options)
    _add_links(robot, model, folder, prefix)
    for index in range(1, model.nbody):
        _add_joint(robot, model, index, gripper)
    _add_tip(robot, model)
    return save_xml(folder / "parol6.urdf", robot, "URDF")


def save_xml(path: Path, root: ET.Element, what: str) -> Path:
    """Write an indented XML file, and return its path.

    Args:
        path: The file; missing folders are created.
        root: The root element.
        what: Kind of file, for the error.

    Raises:
        RecordingError: The file could not be written.
    """
    ET.indent(root)
    save_text(path, ET.tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n", what)
    return path


def link_name(body: str) -> str:
    """Return the name of a link in ROS for the name of a body in MuJoCo."""
    return body.removeprefix(GRIPPER_PREFIX)


def _add_links(robot: ET.Element, model: mujoco.MjModel, folder: Path, prefix: str) -> None:
    shapes = [("visual", shape) for shape in visible_shapes(model)]
    shapes += [("collision", shape) for shape in collision_shapes(model)]
    for index in range(1, model.nbody):
        body = model.body(index)
        link = ET.SubElement(robot, "link", name=link_name(body.name))
        if body.mass[0] > 0:
            inertial = ET.SubElement(link, "inertial")
            _add_origin(inertial, body.ipos, _matrix(body.iquat))
            ET.SubElement(inertial, "mass", value=f"{body.mass[0]:.6g}")
            ixx, iyy, izz = (f"{value:.6g}" for value in body.inertia)
            ET.SubElement(inertial, "inertia", ixx=ixx, iyy=iyy, izz=izz, ixy="0", ixz="0", iyz="0")
        seen: Counter[str] = Counter()
        for tag, shape in shapes:
            if shape.body == body.name:
                seen[shape.kind] += 1
                name = f"{link_name(body.name)}_{shape.kind}_{seen[shape.kind]}"
                _add_shape(link, tag, shape, folder / "meshes" / f"{name}.stl", f"{prefix}/{name}.stl")


def _add_shape(link: ET.Element, tag: str, shape: Shape, mesh: Path, mesh_name: str) -> None:
    """Add a shape; a capsule becomes a cylinder and two spheres."""
    radius, length = {"radius": f"{shape.size[0]:.6g}"}, {"length": f"{2 * shape.size[1]:.6g}"}
    parts: dict[tuple[float, ...], tuple[str, dict[str, str]]]
    middle, ends = (0.0, 0.0, 0.0), ((0.0, 0.0, -shape.size[1]), (0.0, 0.0, shape.size[1]))
    if shape.kind == "box":
        parts = {middle: ("box", {"size": _numbers(2 * shape.size)})}
    elif shape.kind == "sphere":
        parts = {middle: ("sphere", radius)}
    elif shape.kind == "cylinder":
        parts = {middle: ("cylinder", radius | length)}
    elif shape.kind == "capsule":
        parts = {middle: ("cylinder", radius | length), **dict.fromkeys(ends, ("sphere", radius))}
    else:
        assert shape.vertices is not None  # noqa: S101 - narrows a type
        assert shape.faces is not None  # noqa: S101 - narrows a type
        with whole_file(mesh, "mesh") as file:
            file.write_bytes(_stl(shape.vertices[shape.faces]))
        parts = {middle: ("mesh", {"filename": mesh_name})}
    for offset, (geometry, attributes) in parts.items():
        element = ET.SubElement(link, tag)
        _add_origin(element, shape.position + shape.rotation @ np.array(offset), shape.rotation)
        ET.SubElement(ET.SubElement(element, "geometry"), geometry, attributes)
        if tag == "visual":
            material = ET.SubElement(element, "material", name="rgba_" + "_".join(f"{c:.3g}" for c in shape.color))
            ET.SubElement(material, "color", rgba=" ".join(f"{c:.4g}" for c in shape.color))


def _add_joint(robot: ET.Element, model: mujoco.MjModel, index: int, gripper: Gripper) -> None:
    """Add the joint between a link and its parent."""
    body = model.body(index)
    parent = model.body(int(body.parentid[0])).name
    if parent == "world":
        return  # the base is the root
    fixed = int(body.jntnum[0]) == 0
    joint = None if fixed else model.joint(int(body.jntadr[0]))
    name = f"{link_name(body.name)}_mount" if joint is None else link_name(joint.name)
    slides = joint is not None and int(joint.type[0]) == mujoco.mjtJoint.mjJNT_SLIDE
    kind = "fixed" if joint is None else "prismatic" if slides else "revolute"
    element = ET.SubElement(robot, "joint", name=name, type=kind)
    _add_origin(element, body.pos, _matrix(body.quat))
    ET.SubElement(element, "parent", link=link_name(parent))
    ET.SubElement(element, "child", link=link_name(body.name))
    if joint is None:
        return
    if np.any(joint.pos):
        raise RecordingError(f"The axis of joint {name} misses the origin of its link, which a URDF cannot describe.")
    ET.SubElement(element, "axis", xyz=_numbers(joint.axis))
    if slides:
        lower, upper, speed, effort = 0.0, gripper.stroke, gripper.jaw_speed, _JAW_FORCE
    else:
        number = JOINT_NAMES.index(name)
        lower, upper = float(JOINT_LOWER[number]), float(JOINT_UPPER[number])
        speed, effort = float(MAX_SPEED[number]), float(STALL_TORQUE[number])
    limits = {"lower": lower, "upper": upper, "velocity": speed, "effort": effort}
    ET.SubElement(element, "limit", {key: f"{value:.6g}" for key, value in limits.items()})
    if name == "jaw_right":
        ET.SubElement(element, "mimic", joint="jaw_left")


def _add_tip(robot: ET.Element, model: mujoco.MjModel) -> None:
    """Add the tool centre point, which planners move."""
    site = model.site(GRIPPER_PREFIX + "tcp")
    ET.SubElement(robot, "link", name=TIP)
    joint = ET.SubElement(robot, "joint", name=f"{TIP}_mount", type="fixed")
    _add_origin(joint, site.pos, _matrix(site.quat))
    ET.SubElement(joint, "parent", link=link_name(model.body(int(site.bodyid[0])).name))
    ET.SubElement(joint, "child", link=TIP)


def _add_origin(parent: ET.Element, position: Array, rotation: Array) -> None:
    ET.SubElement(parent, "origin", xyz=_numbers(position), rpy=_numbers(roll_pitch_yaw(rotation)))


def roll_pitch_yaw(rotation: Array) -> Array:
    """Return the angles of a rotation about the fixed axes x, y and z, in this order, in rad, shape (3,)."""
    pitch = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    if np.hypot(rotation[0, 0], rotation[1, 0]) < 1e-9:  # straight up or down: roll and yaw have the same axis
        return np.array([np.arctan2(-rotation[1, 2], rotation[1, 1]), pitch, 0.0])
    return np.array([np.arctan2(rotation[2, 1], rotation[2, 2]), pitch, np.arctan2(rotation[1, 0], rotation[0, 0])])


def _matrix(quaternion: Array) -> Array:
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, np.ascontiguousarray(quaternion, np.float64))
    return matrix.reshape(3, 3)


def _numbers(values: Array) -> str:
    return " ".join(f"{value:.9g}" for value in np.where(np.abs(values) < 1e-12, 0.0, values))


def _stl(triangles: NDArray[np.float32]) -> bytes:
    """Return a binary STL of triangles, shape (n, 3, 3)."""
    rows = np.zeros(len(triangles), np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]))
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    rows["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    rows["corners"] = triangles
    return bytes(80) + struct.pack("<I", len(rows)) + rows.tobytes()
