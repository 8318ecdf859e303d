"""Triangle meshes of the scene's shapes."""

from __future__ import annotations

import numpy as np
import trimesh
from numpy.typing import NDArray

from smolvla_gym.sim.shapes import Shape


def triangles(shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return vertices in m in the shape's own frame, shape (n, 3), and faces, shape (m, 3)."""
    size = shape.size
    if shape.kind == "mesh":
        assert shape.vertices is not None  # noqa: S101 - narrows a type
        assert shape.faces is not None  # noqa: S101 - narrows a type
        return shape.vertices, shape.faces
    if shape.kind == "box":
        solid = trimesh.creation.box(extents=2 * size)
    elif shape.kind == "cylinder":
        solid = trimesh.creation.cylinder(radius=size[0], height=2 * size[1], sections=32)
    elif shape.kind == "capsule":
        solid = trimesh.creation.capsule(radius=size[0], height=2 * size[1], count=(16, 16))
        solid.apply_translation(-solid.bounds.mean(axis=0))
    else:
        solid = trimesh.creation.icosphere(subdivisions=3)
        solid.apply_scale(size[0] if shape.kind == "sphere" else size)
    return np.asarray(solid.vertices, np.float32), np.asarray(solid.faces, np.int32)
