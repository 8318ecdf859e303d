"""Visible top of the table."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.build import add_picture
from smolvla_gym.sim.own_table.description import OwnTable, Picture
from smolvla_gym.sim.textures import TILE, texture

TABLE_CENTER: Final = (0.16, 0.0, -0.02)
"""Centre of the table top in m; its upper side is at z = 0."""

TABLE_SIZE: Final = (0.42, 0.45, 0.02)
"""Half extents of the table top in m."""

TABLE_COLOR: Final = (0.685, 0.643, 0.575)
"""Colour of the table as RGB in 0..1."""

_CELLS: Final = 12
"""Squares of the upper side along an edge.

OpenGL computes the light at vertices. With 12 x 12 squares an image differs by 0.4 of 255 on average from one that is
lit per pixel. MuJoCo's ``numquads`` splits every box of the scene and costs more: 0.65 ms with 4 against 0.2 ms for an
image of each camera at 128x128, and differs by 3 of 255.
"""


def table_box(own: OwnTable | None) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return centre and half extents of the table top in m.

    Args:
        own: A table of one's own; None: that of the package.
    """
    if own is None:
        return TABLE_CENTER, TABLE_SIZE
    half = TABLE_SIZE[2]
    return (*own.center, own.height - half), (0.5 * own.size[0], 0.5 * own.size[1], half)


def add_table(spec: mujoco.MjSpec, own: OwnTable | None = None) -> None:
    """Add the table top: a box for contacts, which is not drawn, and a mesh for the images.

    Args:
        spec: The scene. Afterwards it has the geoms ``table`` and ``table_top``, and the material ``table``.
        own: A table of one's own; None: that of the package.
    """
    center, size = table_box(own)
    color = TABLE_COLOR if own is None or own.color is None else own.color
    spec.add_material(name="table", rgba=[*color, 1], specular=0.15, shininess=0.2, reflectance=0.0)
    if own is not None and own.texture is not None:
        _cover(spec, own)
    spec.worldbody.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=center, size=size, material="table",
        friction=[0.6, 0.005, 0.0001], group=3,
    )  # fmt: skip
    if own is not None and own.height > 0.0:
        spec.worldbody.add_geom(
            name="arm_plate", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[-0.02, 0.0, -size[2]], size=[0.13, 0.11, size[2]],
            rgba=[0.45, 0.45, 0.45, 1.0], friction=[0.6, 0.005, 0.0001], group=2,
        )  # fmt: skip
    vertices, faces = _slab(_CELLS)
    spec.add_mesh(
        name="table_top", uservert=(vertices * size).ravel(), userface=faces.ravel(),
        usertexcoord=(vertices * size / TILE)[:, :2].ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )  # fmt: skip
    spec.worldbody.add_geom(
        name="table_top", type=mujoco.mjtGeom.mjGEOM_MESH, meshname="table_top", pos=center, material="table",
        contype=0, conaffinity=0, mass=0, group=2,
    )  # fmt: skip


def _cover(spec: mujoco.MjSpec, own: OwnTable) -> None:
    """Give the table top a texture: one of the package's, in the colour of the top, or an image in its own colours."""
    if isinstance(own.texture, str):
        pixels = texture(own.texture)
    else:
        assert own.texture is not None  # noqa: S101 - narrows a type
        pixels = own.texture.pixels
    add_picture(spec, "own_table", Picture(pixels))
    material = spec.material("table")
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "own_table"
    if own.color is None and not isinstance(own.texture, str):
        material.rgba = [1.0, 1.0, 1.0, 1.0]


def _slab(cells: int) -> tuple[Array, NDArray[np.int32]]:
    """Return a box from -1 to 1 whose upper side has cells x cells squares: vertices (n, 3) and triangles (m, 3)."""
    edge = np.linspace(-1.0, 1.0, cells + 1)
    x, y = np.meshgrid(edge, edge, indexing="ij")
    number = np.arange(x.size).reshape(x.shape)
    a, b, c, d = (
        corner.ravel() for corner in (number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:])
    )  # fmt: skip
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    below, above = (
        x.size + np.arange(4),
        x.size + 4 + np.arange(4),
    )  # of the other sides, which have normals of their own
    following = np.roll(np.arange(4), -1)
    faces = np.concatenate([
        np.column_stack([a, b, c]), np.column_stack([a, c, d]), [below[[0, 2, 1]], below[[0, 3, 2]]],
        np.column_stack([below, below[following], above[following]]),
        np.column_stack([below, above[following], above]),
    ])  # fmt: skip
    vertices = np.concatenate([
        np.column_stack([x.ravel(), y.ravel(), np.ones(x.size)]), np.column_stack([corners, -np.ones(4)]),
        np.column_stack([corners, np.ones(4)]),
    ])  # fmt: skip
    return vertices, faces.astype(np.int32)
