"""Shapes of the scene, for viewers and other simulators: each is fixed to a MuJoCo body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array

_COLLISION: Final = 3
"""MuJoCo's group of the invisible collision geoms."""

_KINDS: Final = {
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
}


@dataclass(frozen=True)
class Shape:
    """Shape that is fixed to a MuJoCo body.

    Attributes:
        name: Unique in the scene.
        body: Name of the body.
        kind: ``"box"``, ``"cylinder"``, ``"capsule"``, ``"sphere"``, ``"ellipsoid"`` or ``"mesh"``.
        size: Half extents in m as MuJoCo counts them: of a box along x, y and z; radius and half length along z of a
            cylinder or a capsule, without its caps; radius of a sphere; half axes of an ellipsoid. Shape (3,).
        position: In the body's frame, in m, shape (3,).
        rotation: In the body's frame, shape (3, 3).
        color: Red, green, blue and opacity, 0..1, shape (4,).
        vertices: Of a mesh, in m, shape (n, 3).
        faces: Of a mesh, three vertices each, shape (m, 3).
    """

    name: str
    body: str
    kind: str
    size: Array
    position: Array
    rotation: Array
    color: Array
    vertices: NDArray[np.float32] | None = None
    faces: NDArray[np.int32] | None = None


def visible_shapes(model: mujoco.MjModel) -> list[Shape]:
    """Return the visible shapes of a scene, without the endless floor."""
    return [shape for shape in _shapes(model, collision=False) if shape.color[3] > 0]


def collision_shapes(model: mujoco.MjModel) -> list[Shape]:
    """Return the invisible shapes of a scene that collide."""
    return _shapes(model, collision=True)


def _shapes(model: mujoco.MjModel, *, collision: bool) -> list[Shape]:
    shapes = []
    for index in range(model.ngeom):
        geom = model.geom(index)
        kind = _KINDS.get(mujoco.mjtGeom(int(geom.type[0])))
        if kind is None or (int(geom.group[0]) == _COLLISION) != collision:
            continue
        material = int(geom.matid[0])
        color = np.array(geom.rgba if material < 0 else model.mat_rgba[material], np.float64)
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, geom.quat)
        vertices, faces = _mesh(model, int(geom.dataid[0])) if kind == "mesh" else (None, None)
        body = model.body(int(geom.bodyid[0])).name
        name = f"{body}/{geom.name or index}"
        size, position = np.array(geom.size), np.array(geom.pos)
        shapes.append(Shape(name, body, kind, size, position, rotation.reshape(3, 3), color, vertices, faces))
    return shapes


def _mesh(model: mujoco.MjModel, index: int) -> tuple[Any, Any]:
    first, count = int(model.mesh_vertadr[index]), int(model.mesh_vertnum[index])
    begin, faces = int(model.mesh_faceadr[index]), int(model.mesh_facenum[index])
    return model.mesh_vert[first : first + count].copy(), model.mesh_face[begin : begin + faces].copy()


def body_poses(model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, tuple[Array, Array]]:
    """Return position in m, shape (3,), and rotation, shape (3, 3), of each MuJoCo body in the world."""
    return {model.body(i).name: (data.xpos[i].copy(), data.xmat[i].reshape(3, 3).copy()) for i in range(model.nbody)}
