"""SRDF for MoveIt: groups of joints, named poses, and pairs of links that need no collision check."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import mujoco

from smolvla_gym.integrations.bridge.topics import JAWS
from smolvla_gym.integrations.ros2.urdf import TIP, link_name, save_xml
from smolvla_gym.parol6 import HOME, JOINT_NAMES, STANDBY, Gripper
from smolvla_gym.sim.scene import arm_spec


def write_srdf(folder: str | Path, gripper: Gripper) -> Path:
    """Write ``parol6.srdf``: the groups ``arm`` and ``gripper``, their named poses, and pairs of links not to check.

    Args:
        folder: Folder of the file; made if it is missing.
        gripper: The gripper that is mounted.

    Returns:
        The file.

    Raises:
        RecordingError: The file could not be written.
    """
    robot = ET.Element("robot", name="parol6")
    arm = ET.SubElement(robot, "group", name="arm")
    ET.SubElement(arm, "chain", base_link="base", tip_link=TIP)
    jaws = ET.SubElement(robot, "group", name="gripper")
    for name in JAWS:
        ET.SubElement(jaws, "joint", name=name)
    for pose, joints in (("home", HOME), ("standby", STANDBY)):
        _add_pose(robot, pose, "arm", dict(zip(JOINT_NAMES, joints.tolist(), strict=True)))
    for pose, travel in (("closed", 0.0), ("open", gripper.stroke)):
        _add_pose(robot, pose, "gripper", dict.fromkeys(JAWS, travel))
    ET.SubElement(robot, "end_effector", name="gripper", parent_link=TIP, group="gripper", parent_group="arm")
    for one, other, reason in _unchecked(arm_spec(gripper).compile()):
        ET.SubElement(robot, "disable_collisions", link1=one, link2=other, reason=reason)
    return save_xml(Path(folder) / "parol6.srdf", robot, "SRDF")


def _add_pose(robot: ET.Element, name: str, group: str, joints: dict[str, float]) -> None:
    state = ET.SubElement(robot, "group_state", name=name, group=group)
    for joint, value in joints.items():
        ET.SubElement(state, "joint", name=joint, value=f"{value:.6g}")


def _unchecked(model: mujoco.MjModel) -> list[tuple[str, str, str]]:
    """Return the pairs of links that need no collision check, with MoveIt's name of the reason.

    These are adjacent links, and links with one between them whose collision boxes, wider than the real parts, overlap:
    the simulation leaves these out as well. All other pairs are checked, also those that the simulation leaves out.
    """
    weld, parent, excluded = model.body_weldid, model.body_parentid, set(model.exclude_signature.tolist())

    def carries(one: int, other: int) -> bool:
        return bool(weld[other] and weld[parent[weld[other]]] == weld[one])

    pairs = []
    for one, other in combinations(range(1, model.nbody), 2):
        if weld[one] == weld[other] or carries(one, other) or carries(other, one):
            reason = "Adjacent"
        elif (one << 16) + other in excluded and any(
            carries(one, link) and carries(link, other) for link in range(one, other)
        ):
            reason = "User"
        else:
            continue
        pairs.append((link_name(model.body(one).name), link_name(model.body(other).name), reason))
    return pairs
