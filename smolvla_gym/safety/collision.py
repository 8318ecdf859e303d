"""Collision check: poses in which the arm penetrates itself or the table, or leaves its workspace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import JOINT_NAMES, Array, get_gripper
from smolvla_gym.safety.report import Violation
from smolvla_gym.sim.own_table import OwnTable
from smolvla_gym.sim.scene import GRIPPER_PREFIX, arm_spec

Box = tuple[tuple[float, float, float], tuple[float, float, float]]

WORKSPACE: Box = ((-0.50, -0.50, 0.0), (0.50, 0.50, 0.75))
"""Box in m that the tool centre point stays in, two corners: all that the arm reaches above its table."""

_ROUNDING = 1e-9  # m

_TOP_THICKNESS = 0.04
"""Thickness in m of a table's top that lies higher than the foot of the arm."""


@dataclass(frozen=True)
class Obstacles:
    """What a guard keeps the arm out of, besides the arm itself and the plane on which it stands.

    Attributes:
        boxes: Lowest and highest corner of each box in m, in the frame of the arm's base, by its name.
        height: Height in m of the table's top above that plane, 0 or above.
        top: Lowest and highest x and y in m of the table's top, where it is higher than the plane.
    """

    boxes: tuple[tuple[str, Box], ...] = ()
    height: float = 0.0
    top: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))

    @classmethod
    def of_table(cls, table: OwnTable) -> Obstacles:
        """Return the obstacles of a table of one's own."""
        low, high = np.subtract(table.center, np.divide(table.size, 2)), np.add(table.center, np.divide(table.size, 2))
        boxes = tuple((obstacle.name, obstacle.corners) for obstacle in table.obstacles)
        return cls(boxes, table.height, ((float(low[0]), float(low[1])), (float(high[0]), float(high[1]))))


class CollisionGuard:
    """Check of poses by MuJoCo's collision detection between the links, the gripper, the table and obstacles."""

    def __init__(self, gripper: str, workspace: Box = WORKSPACE, obstacles: Obstacles | None = None) -> None:
        """Build a model of the arm alone.

        Args:
            gripper: Name of the gripper.
            workspace: Lowest and highest corner in m of the box that the tool centre point stays in.
            obstacles: What else the arm stays out of.

        Raises:
            UnknownNameError: There is no gripper of this name.
            OptionError: The workspace is not a box.
        """
        mounted = get_gripper(gripper)
        self._low, self._high = check_workspace(workspace)
        spec = arm_spec(mounted)
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
        self._obstacle_names: dict[int, str] = {}
        self._add_obstacles(spec, obstacles or Obstacles())
        self._data = mujoco.MjData(self._model)
        jaws = [GRIPPER_PREFIX + name for name in ("jaw_left", "jaw_right")]
        self._arm = [self._model.joint(name).qposadr[0] for name in JOINT_NAMES]
        self._jaws = [self._model.joint(name).qposadr[0] for name in jaws]
        self._stroke = mounted.stroke
        self._tcp = self._model.site(GRIPPER_PREFIX + "tcp").id

    def _add_obstacles(self, spec: mujoco.MjSpec, obstacles: Obstacles) -> None:
        boxes = [(f"the obstacle {name}", *box) for name, box in obstacles.boxes]
        if obstacles.height > 0.0:
            (x0, y0), (x1, y1) = obstacles.top
            boxes.append(("the table", (x0, y0, obstacles.height - _TOP_THICKNESS), (x1, y1, obstacles.height)))
        for number, (_, low, high) in enumerate(boxes):
            spec.worldbody.add_geom(
                name=f"obstacle_{number}", type=mujoco.mjtGeom.mjGEOM_BOX, pos=0.5 * np.add(low, high),
                size=0.5 * np.subtract(high, low),
            )  # fmt: skip
        self._model = spec.compile()
        for number, (name, _, _) in enumerate(boxes):
            self._obstacle_names[self._model.geom(f"obstacle_{number}").id] = name

    def violations(self, joints: Sequence[float], opening: float) -> dict[Violation, float]:
        """Return the reasons why a pose must not be commanded.

        Args:
            joints: Six joint angles in rad.
            opening: Opening of the gripper, 0..1.

        Returns:
            Penetration in m of each pair in contact, and distance in m beyond each border of the workspace; empty for
            a pose that is allowed.
        """
        model, data = self._model, self._data
        data.qpos[self._arm] = joints
        data.qpos[self._jaws] = opening * self._stroke
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        found: dict[Violation, float] = {}
        if data.ncon:
            for distance, pair in zip(data.contact.dist.tolist(), data.contact.geom.tolist(), strict=True):
                if distance < -_ROUNDING:
                    contact = Violation("collision", " and ".join(self._name(geom) for geom in pair))
                    found[contact] = max(found.get(contact, 0.0), -distance)
        for axis, value, low, high in zip(
            "xyz", data.site_xpos[self._tcp].tolist(), self._low, self._high, strict=True
        ):
            outside = max(low - value, value - high)
            if outside > _ROUNDING:
                found[Violation("workspace", f"the tool and the border of the workspace in {axis}")] = outside
        return found

    def _name(self, geom: int) -> str:
        body = int(self._model.geom_bodyid[geom])
        if geom in self._obstacle_names:
            return self._obstacle_names[geom]
        return "the table" if body == 0 else "the " + self._model.body(body).name.removeprefix(GRIPPER_PREFIX)


def check_workspace(workspace: object) -> Box:
    """Return a workspace as two corners.

    Raises:
        OptionError: It is not two points in m, the second one greater in each axis.
    """
    allowed = "((x, y, z), (x, y, z)), the lowest and the highest corner of a box in m"
    try:
        corners = np.asarray(workspace, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise OptionError("workspace", workspace, allowed) from None
    if corners.shape != (2, 3) or not np.isfinite(corners).all() or not (corners[0] < corners[1]).all():
        raise OptionError("workspace", workspace, allowed)
    low, high = corners.tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def refuse_contact(joints: Array, contacts: Iterable[str]) -> None:
    """Refuse a start pose with contacts.

    Args:
        joints: Joint angles in rad, shape (6,).
        contacts: Pairs in contact, such as ``"the table and the gripper"``.

    Raises:
        OptionError: There is a contact.
    """
    if found := ", ".join(contacts):
        allowed = f"a start pose without contacts and within the workspace; in contact: {found}"
        raise OptionError('options["joints"]', np.round(joints, 4).tolist(), allowed)
