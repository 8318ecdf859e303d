"""Points inside an object, from its shapes in the scene."""

from __future__ import annotations

from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.convex_parts import hull_in_model

_FINEST: Final = 0.0015
_CELLS: Final = 60
"""Cells along the longest edge of an object, unless they would be finer than 1.5 mm."""


def occupied(model: Any, body: int) -> tuple[Array, float]:
    """Return points on a grid inside what collides of an object.

    Args:
        model: The model.
        body: Id of the object's body; bodies below it belong to it.

    Returns:
        The points in the frame of the body in m, shape (n, 3), and their distance in m.
    """
    data: Any = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    origin, rotation = data.xpos[body], data.xmat[body].reshape(3, 3)
    geoms = [
        geom for geom in np.flatnonzero(model.body_rootid[model.geom_bodyid] == body)
        if model.geom_contype[geom] or model.geom_conaffinity[geom]
    ]  # fmt: skip
    poses = [((data.geom_xpos[g] - origin) @ rotation, rotation.T @ data.geom_xmat[g].reshape(3, 3)) for g in geoms]
    boxes = []
    for geom, (position, turn) in zip(geoms, poses, strict=True):
        center, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
        middle, reach = position + turn @ center, np.abs(turn) @ half
        boxes.append((middle - reach, middle + reach))
    low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
    pitch = max(_FINEST, float((high - low).max()) / _CELLS)
    counts = np.maximum(np.ceil((high - low) / pitch).astype(int), 1)
    axes = [
        middle + (np.arange(n) - 0.5 * (n - 1)) * pitch for n, middle in zip(counts, 0.5 * (low + high), strict=True)
    ]
    inside = np.zeros(counts, bool)
    for geom, (position, turn), box in zip(geoms, poses, boxes, strict=True):
        ranges = [
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, "right")))
            for axis, a, b in zip(axes, *box, strict=True)
        ]
        grid = np.stack(np.meshgrid(*(axis[r] for axis, r in zip(axes, ranges, strict=True)), indexing="ij"), axis=-1)
        local = (grid.reshape(-1, 3) - position) @ turn
        inside[tuple(ranges)] |= _within(model, int(geom), local).reshape(grid.shape[:3])
    cells = np.argwhere(inside)
    return np.column_stack([axis[cells[:, k]] for k, axis in enumerate(axes)]), pitch


def _within(model: Any, geom: int, points: Array) -> NDArray[np.bool_]:
    """Return which points, in the frame of a geom, are inside it."""
    size, kinds = model.geom_size[geom], mujoco.mjtGeom
    kind = int(model.geom_type[geom])
    flat = np.linalg.norm(points[:, :2], axis=1)
    if kind == kinds.mjGEOM_BOX:
        return np.asarray((np.abs(points) <= size).all(axis=1))
    if kind == kinds.mjGEOM_SPHERE:
        return np.asarray(np.linalg.norm(points, axis=1) <= size[0])
    if kind == kinds.mjGEOM_CYLINDER:
        return np.asarray((flat <= size[0]) & (np.abs(points[:, 2]) <= size[1]))
    if kind == kinds.mjGEOM_CAPSULE:
        beyond = np.maximum(np.abs(points[:, 2]) - size[1], 0.0)
        return np.asarray(np.hypot(flat, beyond) <= size[0])
    if kind == kinds.mjGEOM_ELLIPSOID:
        return np.asarray(np.linalg.norm(points / size, axis=1) <= 1.0)
    if kind == kinds.mjGEOM_MESH:
        hull = hull_in_model(model, int(model.geom_dataid[geom]), np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))
        corners = hull.vertices[hull.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1)
        real = lengths > 1e-14
        normals, anchors = normals[real] / lengths[real, None], corners[real, 0]
        outward = np.sign(np.einsum("ij,ij->i", normals, anchors - hull.vertices.mean(axis=0)))
        normals = normals * outward[:, None]
        return np.asarray((points @ normals.T <= np.einsum("ij,ij->i", normals, anchors) + 1e-7).all(axis=1))
    return np.zeros(len(points), bool)
