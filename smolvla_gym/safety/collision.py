"""Poses that must not be commanded: the arm in itself, in the table, or outside its workspace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import JOINT_NAMES, Array, get_gripper
from smolvla_gym.sim.scene import GRIPPER_PREFIX, arm_spec

Box = tuple[tuple[float, float, float], tuple[float, float, float]]

WORKSPACE: Box = ((-0.50, -0.50, 0.0), (0.50, 0.50, 0.75))
"""Where the tool centre point may be, in m: two corners. It holds all that the arm reaches above its table."""

_ROUNDING = 1e-9  # m


class CollisionGuard:
    """Looks a commanded pose up in MuJoCo: arm, gripper and table touch or they do not."""

    def __init__(self, gripper: str, workspace: Box = WORKSPACE) -> None:
        """Builds the model of the arm alone.

        Args:
            gripper: Name of the gripper.
            workspace: Lowest and highest corner in m of the box that the tool centre point stays in.

        Raises:
            UnknownNameError: There is no gripper of this name.
            OptionError: The workspace is no box.
        """
        mounted = get_gripper(gripper)
        self._low, self._high = check_workspace(workspace)
        spec = arm_spec(mounted)
        spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        jaws = [GRIPPER_PREFIX + name for name in ("jaw_left", "jaw_right")]
        self._arm = [self._model.joint(name).qposadr[0] for name in JOINT_NAMES]
        self._jaws = [self._model.joint(name).qposadr[0] for name in jaws]
        self._stroke = mounted.stroke
        self._tcp = self._model.site(GRIPPER_PREFIX + "tcp").id

    def touched(self, joints: Sequence[float], opening: float) -> dict[str, float]:
        """Tells what a pose is in that it must not touch.

        Args:
            joints: Six joint angles in rad.
            opening: Opening of the gripper, 0..1.

        Returns:
            How deep in m, by what touches what; empty where nothing does.
        """
        model, data = self._model, self._data
        data.qpos[self._arm] = joints
        data.qpos[self._jaws] = opening * self._stroke
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        found: dict[str, float] = {}
        if data.ncon:
            for distance, pair in zip(data.contact.dist.tolist(), data.contact.geom.tolist(), strict=True):
                if distance < -_ROUNDING:
                    what = " and ".join(self._name(geom) for geom in pair)
                    found[what] = max(found.get(what, 0.0), -distance)
        for axis, value, low, high in zip(
            "xyz", data.site_xpos[self._tcp].tolist(), self._low, self._high, strict=True
        ):
            outside = max(low - value, value - high)
            if outside > _ROUNDING:
                found[f"the tool and the border of the workspace in {axis}"] = outside
        return found

    def _name(self, geom: int) -> str:
        body = int(self._model.geom_bodyid[geom])
        return "the table" if body == 0 else "the " + self._model.body(body).name.removeprefix(GRIPPER_PREFIX)


def check_workspace(workspace: object) -> Box:
    """Returns a workspace as two corners.

    Raises:
        OptionError: It is not two points in m, the second above the first in each axis.
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


def refuse_contact(joints: Array, touched: Iterable[str]) -> None:
    """Refuse a start pose in which anything touches.

    Args:
        joints: Joint angles in rad, shape (6,).
        touched: Descriptions of the contacts, such as ``"the table and the gripper"``.

    Raises:
        OptionError: There is a contact.
    """
    if found := ", ".join(touched):
        allowed = f"a start pose in which the arm touches nothing and stays in its workspace; here: {found}"
        raise OptionError('options["joints"]', np.round(joints, 4).tolist(), allowed)
