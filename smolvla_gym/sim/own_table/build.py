"""Objects of a table in a scene."""

from __future__ import annotations

from typing import Any, Final

import mujoco
import numpy as np

from smolvla_gym.sim.own_table.convex_parts import convex_volume
from smolvla_gym.sim.own_table.description import OwnObject, OwnTable, Picture
from smolvla_gym.sim.own_table.mjcf_file import rigid_body

_FLOOR: Final = -0.70
"""Height in m of the floor above the foot of the arm."""

_ROLLING: Final = ("sphere", "capsule", "cylinder")


def parking(index: int, thing: OwnObject) -> list[float]:
    """Return where an object that an episode does not use lies: on the floor, out of view of all cameras, in m."""
    return [-1.5, 0.45 * (index - 4), _FLOOR + thing.half_height]


def add_own_objects(spec: mujoco.MjSpec, table: OwnTable) -> None:
    """Add the objects of a table, each a body ``object_<i>`` with a visible geom of the same name."""
    for index, thing in enumerate(table.objects):
        name = f"object_{index}"
        body = spec.worldbody.add_body(name=name, pos=parking(index, thing))
        body.add_freejoint(name=name)
        add_shapes(spec, body, name, thing)


def add_shapes(spec: mujoco.MjSpec, body: Any, name: str, thing: OwnObject) -> None:
    """Add the shapes of an object to a body.

    Args:
        spec: The scene.
        body: The body.
        name: Name of the visible geom, and the beginning of the names of all that is added.
        thing: The object.
    """
    position, quaternion = thing.frame
    place = {"pos": position, "quat": quaternion}
    contact = {"condim": 6 if thing.shape in _ROLLING else 4, "friction": [thing.friction, 0.01, 0.0005]}
    color = [*thing.color, 1.0]
    kinds = mujoco.mjtGeom
    if thing.mjcf:
        # MuJoCo consumes what is attached: each scene needs a copy of its own.
        child = rigid_body(thing.mjcf, dict(thing.files))[1]
        spec.assets = {**spec.assets, **thing.files}
        body.add_frame(**place).attach_body(child, f"{name}/", "")
        body.add_geom(name=name, type=kinds.mjGEOM_SPHERE, size=[1e-4] * 3, mass=0, contype=0, conaffinity=0, group=3)
        return
    if thing.surface is None:
        geom, size = _primitive(thing)
        body.add_geom(name=name, type=geom, size=size, mass=thing.mass, rgba=color, group=2, **place, **contact)
        return
    visible = {} if thing.surface.uv is None else {"usertexcoord": thing.surface.uv.ravel()}
    spec.add_mesh(
        name=name, uservert=thing.surface.vertices.ravel(), userface=thing.surface.faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX, **visible,
    )  # fmt: skip
    shown = body.add_geom(
        name=name, type=kinds.mjGEOM_MESH, meshname=name, rgba=color, group=2, mass=0, contype=0, conaffinity=0, **place
    )
    if thing.texture is not None:
        add_picture(spec, name, thing.texture)
        shown.material = name
    volumes = np.array([convex_volume(part) for part in thing.parts])
    for number, (part, share) in enumerate(zip(thing.parts, volumes / volumes.sum(), strict=True)):
        label = f"{name}_part_{number}"
        spec.add_mesh(name=label, uservert=part.vertices.ravel(), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
        body.add_geom(
            name=label, type=kinds.mjGEOM_MESH, meshname=label, mass=thing.mass * share, group=3, **place, **contact
        )


def add_picture(spec: mujoco.MjSpec, name: str, picture: Picture) -> None:
    """Add a material with an image as its texture."""
    height, width = picture.pixels.shape[:2]
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3)
    texture.data = np.ascontiguousarray(picture.pixels[::-1]).tobytes()  # OpenGL's rows start at the bottom
    material = spec.add_material(name=name, specular=0.15, shininess=0.2, reflectance=0.0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _primitive(thing: OwnObject) -> tuple[Any, list[float]]:
    """Return MuJoCo's geom type and size, half extents, of a shape without a file."""
    kinds, size = mujoco.mjtGeom, thing.size
    match thing.shape:
        case "box":
            return kinds.mjGEOM_BOX, [0.5 * edge for edge in size]
        case "cylinder":
            return kinds.mjGEOM_CYLINDER, [0.5 * size[0], 0.5 * size[1], 0.0]
        case "sphere":
            return kinds.mjGEOM_SPHERE, [0.5 * size[0], 0.0, 0.0]
        case _:
            return kinds.mjGEOM_CAPSULE, [0.5 * size[0], 0.5 * (size[1] - size[0]), 0.0]


def solid_volume(thing: OwnObject) -> float:
    """Return the volume in m^3 of what collides of an object; overlaps count twice."""
    if thing.surface is not None:
        return sum(convex_volume(part) for part in thing.parts)
    size = thing.size
    match thing.shape:
        case "box":
            return size[0] * size[1] * size[2]
        case "cylinder":
            return float(np.pi / 4 * size[0] ** 2 * size[1])
        case "sphere":
            return float(np.pi / 6 * size[0] ** 3)
        case _:
            return float(np.pi / 4 * size[0] ** 2 * (size[1] - size[0]) + np.pi / 6 * size[0] ** 3)
