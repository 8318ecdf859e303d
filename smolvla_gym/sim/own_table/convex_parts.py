"""Convex parts of a mesh, which MuJoCo needs for contacts, and their cache.

A connected part that its convex hull fits within 5 % of its volume is its hull; any other one is split by V-HACD.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import mujoco
import numpy as np

from smolvla_gym.errors import needs_extra
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.description import Triangles
from smolvla_gym.utils.untrusted import read_file

MAX_PARTS: Final = 32
"""Most parts of a mesh that collide."""

_FIT: Final = 1.05
_THINNEST: Final = 3e-4
"""Thickness in m below which MuJoCo refuses a hull."""

_SPLIT: Final = 16
_MOST_PIECES: Final = 64
_RESOLUTION: Final = 100_000
_VERSION: Final = b"1"
_MAX_CACHE_BYTES: Final = 4 << 20


def convex_parts(mesh: Triangles, how: str) -> tuple[Triangles, ...]:
    """Return the convex parts of a mesh; empty where it is too thin for any.

    Args:
        mesh: The mesh in m.
        how: ``"auto"``, or ``"hull"`` for the hull of all of it.

    Raises:
        MissingExtraError: The mesh has to be split, and the package that does it is not installed.
    """
    if how == "hull":
        return _hulls([mesh.vertices])
    key = hashlib.sha256(_VERSION + mesh.vertices.tobytes() + b"|" + mesh.faces.tobytes()).hexdigest()
    path = cache_folder() / f"{key}.npz"
    found = _cached(path)
    if found is None:
        found = _split(mesh)
        _keep(path, found)
    # The same numbers with and without the cache.
    return _hulls([part.vertices for part in found])


def cache_folder() -> Path:
    """Return the folder of the cache, which may not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base and Path(base).is_absolute() else Path("~/.cache").expanduser()
    return root / "smolvla_gym" / "convex_parts"


def hull(vertices: Array) -> Triangles | None:
    """Return the convex hull of points in m, shape (n, 3); None where it is too thin."""
    if len(vertices) < 4:
        return None
    centered = vertices - vertices.mean(axis=0)
    axes = np.linalg.svd(centered[:: max(1, len(centered) // 5000)], full_matrices=False)[2]
    if np.ptp(centered @ axes.T, axis=0).min() < _THINNEST:
        return None
    spec = mujoco.MjSpec()
    # MuJoCo computes a hull of vertices alone.
    spec.add_mesh(name="mesh", uservert=vertices.ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh")
    try:
        model: Any = spec.compile()
    except ValueError:
        return None
    return hull_in_model(model, 0, model.geom_pos[0], model.geom_quat[0])


def hull_in_model(model: Any, mesh: int, position: Array, quaternion: Array) -> Triangles:
    """Return the convex hull of a mesh of a compiled model, placed by a position and a quaternion."""
    graph = model.mesh_graph[model.mesh_graphadr[mesh] :]
    count, faces = int(graph[0]), int(graph[1])
    ids = graph[2 + count : 2 + 2 * count]
    corners = graph[2 + 3 * count + 3 * faces :][: 3 * faces].reshape(-1, 3)
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, quaternion)
    used = model.mesh_vert[model.mesh_vertadr[mesh] + ids].astype(np.float64)
    number = {int(vertex): k for k, vertex in enumerate(ids)}
    local = np.array([[number[int(corner)] for corner in face] for face in corners], np.int32)
    return Triangles(used @ rotation.reshape(3, 3).T + position, local)


def volume(mesh: Triangles) -> float:
    """Return the volume in m^3 of a closed mesh, and a guess for one that is not closed."""
    corners = mesh.vertices[mesh.faces] - mesh.vertices.mean(axis=0)
    return abs(float(np.linalg.det(corners).sum())) / 6.0


def convex_volume(mesh: Triangles) -> float:
    """Return the volume in m^3 of a convex mesh, whichever way round its triangles are."""
    corners = mesh.vertices[mesh.faces] - mesh.vertices.mean(axis=0)
    return float(np.abs(np.linalg.det(corners)).sum()) / 6.0


def _hulls(clouds: list[Array]) -> tuple[Triangles, ...]:
    hulls = [found for cloud in clouds if (found := hull(cloud)) is not None]
    return tuple(sorted(hulls, key=convex_volume, reverse=True)[:MAX_PARTS])


def _split(mesh: Triangles) -> tuple[Triangles, ...]:
    clouds: list[Array] = []
    pieces = connected(mesh)
    for piece in pieces if len(pieces) <= _MOST_PIECES else [mesh]:
        found = hull(piece.vertices)
        if found is None:
            continue
        if convex_volume(found) <= _FIT * volume(piece):
            clouds.append(found.vertices)
        else:
            clouds += _decompose(piece)
    return _hulls(clouds)


def _decompose(mesh: Triangles) -> list[Array]:
    with needs_extra("The convex parts of a mesh", "table"):
        import vhacdx
    faces = np.column_stack([np.full(len(mesh.faces), 3), mesh.faces]).astype(np.uint32).ravel()
    # In mm: the package drops what is tiny in its own units.
    parts = vhacdx.compute_vhacd(
        1e3 * mesh.vertices, faces, maxConvexHulls=_SPLIT, resolution=_RESOLUTION, asyncACD=False
    )
    return [1e-3 * np.array(vertices, np.float64) for vertices, _ in parts]


def connected(mesh: Triangles) -> list[Triangles]:
    """Return the connected pieces of a mesh; corners at the same place are one."""
    places, merged = np.unique(np.round(mesh.vertices, 7), axis=0, return_inverse=True)
    faces = merged.reshape(-1)[mesh.faces]
    label = np.arange(len(places))
    while True:
        lowest = label[faces].min(axis=1)
        following = label.copy()
        for corner in range(3):
            np.minimum.at(following, faces[:, corner], lowest)
        following = following[following]
        if np.array_equal(following, label):
            break
        label = following
    pieces = []
    for piece in np.unique(label[faces[:, 0]]):
        own = faces[label[faces[:, 0]] == piece]
        used, local = np.unique(own, return_inverse=True)
        pieces.append(Triangles(places[used], local.reshape(-1, 3).astype(np.int32)))
    return pieces


def _cached(path: Path) -> tuple[Triangles, ...] | None:
    try:
        with np.load(io.BytesIO(read_file(path, _MAX_CACHE_BYTES)), allow_pickle=False) as content:
            clouds = [content[name] for name in sorted(content.files)][: MAX_PARTS + 1]
        if len(clouds) > MAX_PARTS or not all(c.ndim == 2 and c.shape[1] == 3 and np.isfinite(c).all() for c in clouds):
            return None
        return tuple(Triangles(cloud, np.zeros((0, 3), np.int32)) for cloud in clouds) or None
    except Exception:  # a file that is missing or broken is written anew
        return None


def _keep(path: Path, parts: tuple[Triangles, ...]) -> None:
    """Write parts to the cache; a folder that cannot be written to costs only time."""
    content = io.BytesIO()
    np.savez(content, **{f"part_{i:02d}": part.vertices for i, part in enumerate(parts)})  # type: ignore[arg-type]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.getvalue())
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
