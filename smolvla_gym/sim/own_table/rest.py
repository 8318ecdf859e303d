"""Pose in which an object comes to rest on a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.build import add_shapes
from smolvla_gym.sim.own_table.description import OwnObject
from smolvla_gym.sim.own_table.mjcf_file import rigid_body

_TIMESTEP: Final = 0.002
_LONGEST: Final = 1500
_LEVEL: Final = 0.001
"""Difference in m of heights within which a side counts as flat."""

_STILL: Final = 0.005
"""Speed in m/s and rad/s below which an object is at rest."""


def at_rest(thing: OwnObject) -> tuple[OwnObject, float]:
    """Let an object come to rest on a table.

    Args:
        thing: The object.

    Returns:
        The object with the frame, half height and radius that it has at rest; and the angle in rad by which it fell
        over from the rotation in which it was put down.
    """
    upright = replace(thing, frame=(np.zeros(3), np.array(thing.rotation)))
    points = outline(upright)
    spec = mujoco.MjSpec()
    spec.option.timestep, spec.option.integrator = _TIMESTEP, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1], friction=[0.6, 0.005, 0.0001])
    body = spec.worldbody.add_body(name="object", pos=[0.0, 0.0, 5e-4 - points[:, 2].min()])
    body.add_freejoint()
    add_shapes(spec, body, "object", upright)
    model = spec.compile()
    data: Any = mujoco.MjData(model)
    for step in range(_LONGEST):
        mujoco.mj_step(model, data)
        if step > 100 and np.abs(data.qvel).max() < _STILL:
            break
    turn = np.array(data.qpos[3:7])
    # Without its turn about the vertical, of which an episode draws another one.
    yaw = 2.0 * np.arctan2(turn[3], turn[0])
    level = _product(np.array([np.cos(yaw / 2), 0.0, 0.0, -np.sin(yaw / 2)]), turn)
    fallen = 2.0 * float(np.arccos(np.clip(np.hypot(level[0], level[3]), 0.0, 1.0)))
    quaternion = _product(level, np.array(thing.rotation))
    settled = replace(thing, frame=(np.zeros(3), quaternion))
    points = outline(settled)
    low, high = points.min(axis=0), points.max(axis=0)
    middle = 0.5 * (low + high)
    radius = float(np.linalg.norm(points[:, :2] - middle[:2], axis=1).max())
    placed = replace(
        thing, frame=(-middle, quaternion), half_height=float(0.5 * (high[2] - low[2])), radius=radius,
        flat_top=_flat(points[points[:, 2] > high[2] - _LEVEL, :2] - middle[:2]),
        flat_base=_flat(points[points[:, 2] < low[2] + _LEVEL, :2] - middle[:2]),
    )  # fmt: skip
    return placed, fallen


def _flat(points: Array) -> float:
    """Return the smaller edge in m of the points of a side that are on one level, where they surround its middle."""
    if len(points) < 3 or (points.min(axis=0) > 0.0).any() or (points.max(axis=0) < 0.0).any():
        return 0.0
    return float(2.0 * np.minimum(points.max(axis=0), -points.min(axis=0)).min())


def outline(thing: OwnObject) -> Array:
    """Return points in m, shape (n, 3), whose bounding box in the body's frame is that of what collides."""
    position, quaternion = thing.frame
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, quaternion)
    if thing.mjcf:
        points = _body_points(thing)
    elif thing.surface is not None:
        points = np.concatenate([part.vertices for part in thing.parts])
    else:
        points = _primitive_points(thing)
    return np.asarray(points @ rotation.reshape(3, 3).T + position)


def _body_points(thing: OwnObject) -> Array:
    """Return points of the shapes that collide of an object of an MJCF file."""
    model: Any = rigid_body(thing.mjcf, dict(thing.files))[0].compile()
    data: Any = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    kinds = mujoco.mjtGeom
    found = []
    for geom in range(model.ngeom):
        if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
            continue
        size, mesh = 2.0 * model.geom_size[geom], int(model.geom_dataid[geom])
        match int(model.geom_type[geom]):
            case kinds.mjGEOM_MESH:
                first = int(model.mesh_vertadr[mesh])
                points = model.mesh_vert[first : first + int(model.mesh_vertnum[mesh])].astype(np.float64)
            case kinds.mjGEOM_CYLINDER:
                points = _shape_points("cylinder", (size[0], size[1]))
            case kinds.mjGEOM_SPHERE:
                points = _shape_points("sphere", (size[0],))
            case kinds.mjGEOM_CAPSULE:
                points = _shape_points("capsule", (size[0], size[0] + size[1]))
            case kinds.mjGEOM_ELLIPSOID:
                points = _shape_points("sphere", (1.0,)) * size
            case _:
                points = _shape_points("box", tuple(size))
        found.append(points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
    return np.concatenate(found)


def _primitive_points(thing: OwnObject) -> Array:
    return _shape_points(thing.shape, thing.size)


def _shape_points(shape: str, size: tuple[float, ...]) -> Array:
    if shape == "box":
        corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
        return np.asarray(corners * size)
    angle = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    if shape == "cylinder":
        ring = np.column_stack([np.cos(angle), np.sin(angle)]) * 0.5 * size[0]
        return np.concatenate([np.column_stack([ring, np.full(64, z)]) for z in (-0.5 * size[1], 0.5 * size[1])])
    polar = np.linspace(0.0, np.pi, 33)
    ball = np.array([(np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)) for p in polar for a in angle])
    ball *= 0.5 * size[0]
    if shape == "sphere":
        return ball
    half = np.array([0.0, 0.0, 0.5 * (size[1] - size[0])])
    return np.concatenate([ball - half, ball + half])


def _product(first: Array, second: Array) -> Array:
    result = np.empty(4)
    mujoco.mju_mulQuat(result, first, second)
    return result
