"""Reader of table files. A file is untrusted: it names data beside it, and nothing in it is executed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import mujoco
import numpy as np

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.parol6 import Array
from smolvla_gym.sim.own_table.build import solid_volume
from smolvla_gym.sim.own_table.convex_parts import convex_parts
from smolvla_gym.sim.own_table.description import (
    MAX_OBSTACLES,
    MAX_OWN_OBJECTS,
    CameraPose,
    Obstacle,
    OwnObject,
    OwnTable,
    Picture,
)
from smolvla_gym.sim.own_table.keys import (
    CAMERA,
    GRIPPER,
    NAMED_COLORS,
    OBJECT,
    OBSTACLE,
    SECTIONS,
    SHAPES,
    TABLE,
    check_section,
)
from smolvla_gym.sim.own_table.measured_pose import read_measured_pose
from smolvla_gym.sim.own_table.mesh_file import find_file, read_mesh, read_picture
from smolvla_gym.sim.own_table.mjcf_file import read_mjcf, rigid_body
from smolvla_gym.sim.own_table.rest import at_rest
from smolvla_gym.sim.textures import TEXTURES
from smolvla_gym.utils.untrusted import printable, read_file

MAX_TABLE_BYTES: Final = 256 << 10
"""Largest table file in bytes."""

CAMERA_NAMES: Final = ("wrist", "scene")
"""Cameras that a table file can place."""

BASE_RADIUS: Final = 0.12
"""Distance in m of a table's top from the axis of the arm, where it is higher than the arm's foot."""

_HIGHEST: Final = 0.13
"""Greatest height in m of an object at rest above the foot of the arm: the gripper begins above it."""

_DENSITY: Final = 700.0  # printed plastic with sparse infill, kg/m^3
_GREY: Final = NAMED_COLORS["grey"]
_MASS: Final = (0.001, 1.0)
_SIZES: Final = {
    "box": "three edges", "cylinder": "diameter and height", "sphere": "the diameter",
    "capsule": "diameter and whole length, which is longer",
}  # fmt: skip


def read_table(path: str | os.PathLike[str]) -> OwnTable:
    """Read a table file and the meshes and images that it names.

    Args:
        path: The file.

    Raises:
        OptionError: The file is missing or broken, or a value in it is not allowed.
        UnknownNameError: A key or a camera has an unknown name.
        MissingExtraError: A mesh needs the packages of the extra ``table``.
    """
    file = Path(path)
    content = _parse(file)
    name = file.name
    for section in content:
        if section not in SECTIONS:
            raise UnknownNameError(f"section in {name}", section, SECTIONS)
    top = check_section(f"{name}: table", content.get("table", {}), TABLE)
    gripper = check_section(f"{name}: gripper", content["gripper"], GRIPPER)["name"] if "gripper" in content else None
    height = top.get("height", 0.0)
    center, size = top.get("center", (0.16, 0.0)), top.get("size", (0.84, 0.90))
    if height > 0.0 and np.linalg.norm(np.maximum(np.abs(center) - 0.5 * np.array(size), 0.0)) < BASE_RADIUS:
        allowed = f"0 for a table on which the arm stands; a higher one begins {BASE_RADIUS:g} m from its axis"
        raise OptionError(f"{name}: table.height", height, allowed)
    given = _list(f"{name}: obstacles", content.get("obstacles", []), 0, MAX_OBSTACLES)
    obstacles = tuple(_obstacle(f"{name}: obstacles[{i}]", entry) for i, entry in enumerate(given))
    given = _list(f"{name}: objects", content.get("objects", []), 1, MAX_OWN_OBJECTS)
    objects = tuple(_object(f"{name}: objects[{i}]", file.parent, entry) for i, entry in enumerate(given))
    for index, thing in enumerate(objects):
        if height + 2.0 * thing.half_height > _HIGHEST:
            allowed = f"at rest up to {_HIGHEST:g} m above the foot of the arm, where the gripper begins"
            raise OptionError(f"{name}: objects[{index}]", f"{2.0 * thing.half_height:.3f} m high", allowed)
    _check_words(name, objects)
    return OwnTable(
        source=str(file),
        center=center,
        size=size,
        height=height,
        color=_color(top.get("color")),
        texture=_table_texture(f"{name}: table.texture", file.parent, top.get("texture")),
        area=top.get("area"),
        obstacles=obstacles,
        cameras=read_camera_poses(f"{name}: cameras", content.get("cameras", {}), file.parent),
        gripper=gripper,
        objects=objects,
    )


def read_camera_poses(where: str, content: object, folder: Path | None = None) -> dict[str, CameraPose]:
    """Return camera poses, by the name of the camera.

    Args:
        where: What has them, for errors.
        content: A section for each camera, with the keys of ``[cameras.<name>]``.
        folder: Folder in which a file that is named has to be; None: anywhere, as the caller names it.

    Raises:
        OptionError: A value is not allowed.
        UnknownNameError: There is no camera or key of this name.
    """
    if not isinstance(content, Mapping):
        raise OptionError(where, content, f"a section for each camera, of {', '.join(CAMERA_NAMES)}")
    poses = {}
    for camera, section in content.items():
        if camera not in CAMERA_NAMES:
            raise UnknownNameError(f"camera in {where}", camera, CAMERA_NAMES)
        label = f"{where}.{camera}"
        values = check_section(label, dict(section) if isinstance(section, Mapping) else section, CAMERA)
        poses[camera] = _camera(label, camera, values, folder)
    return poses


def look_at(position: tuple[float, ...], target: tuple[float, ...]) -> tuple[float, float, float, float] | None:
    """Return the quaternion of a camera whose axis goes through a target; None where it looks straight up or down."""
    backward = np.subtract(position, target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    if np.linalg.norm(right) < 1e-6:
        return None
    axes = np.column_stack([right, np.cross(backward, right), backward])
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (axes / np.linalg.norm(axes, axis=0)).flatten())
    w, x, y, z = quaternion.tolist()
    return w, x, y, z


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_file(file, MAX_TABLE_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = printable(error, 150) or type(error).__name__
        allowed = f"a TOML file that can be read ({why}); `smolvla-gym table new` writes one to begin with"
        raise OptionError("table", str(file), allowed) from error


def _list(where: str, value: object, low: int, high: int) -> list[Any]:
    if not isinstance(value, list) or not low <= len(value) <= high:
        shown = len(value) if isinstance(value, list) else value
        raise OptionError(where, shown, f"{low} to {high} sections, each begun by [[{where.split(': ')[-1]}]]")
    return value


def _color(value: Any) -> tuple[float, float, float] | None:
    color: tuple[float, float, float] | None = NAMED_COLORS[value] if isinstance(value, str) else value
    return color


def _table_texture(where: str, folder: Path, name: str | None) -> str | Picture | None:
    return name if name is None or name in TEXTURES else read_picture(where, folder, name)


def _obstacle(where: str, content: object) -> Obstacle:
    values = check_section(where, content, OBSTACLE)
    center, half = np.array(values["center"]), 0.5 * np.array(values["size"])
    low, high = (center - half).tolist(), (center + half).tolist()
    return Obstacle(values["name"], (tuple(low), tuple(high)), _color(values.get("color")) or _GREY)


def _camera(where: str, camera: str, values: Mapping[str, Any], folder: Path | None) -> CameraPose:
    if "calibration" in values:
        for key in ("position", "rotation", "target"):
            if key in values:
                raise OptionError(f"{where}.{key}", list(values[key]), "only without calibration")
        name = values["calibration"]
        path = Path(name) if folder is None else find_file(f"{where}.calibration", folder, name)
        measured = read_measured_pose(f"{where}.calibration", path, camera)
        return replace(measured, fovy=values.get("fovy"))
    position, rotation = values.get("position"), values.get("rotation")
    if "target" in values:
        if camera != "scene" or rotation is not None or position is None:
            raise OptionError(f"{where}.target", list(values["target"]), "only of scene, with position, for rotation")
        rotation = look_at(position, values["target"])
        if rotation is None:
            allowed = "a point that is not straight above or below the camera; use rotation for that"
            raise OptionError(f"{where}.target", list(values["target"]), allowed)
    if "fovy" in values and camera != "scene":
        raise OptionError(f"{where}.fovy", values["fovy"], "only of scene: the wrist camera has measured intrinsics")
    if rotation is not None:
        length = float(np.linalg.norm(rotation))
        if abs(length - 1.0) > 0.01:
            raise OptionError(f"{where}.rotation", list(rotation), "a quaternion of length 1")
        w, x, y, z = (entry / length for entry in rotation)
        rotation = (w, x, y, z)
    return CameraPose(position, rotation, values.get("fovy"))


def _object(where: str, folder: Path, content: object) -> OwnObject:
    values = check_section(where, content, OBJECT)
    named = next((kind for kind in ("mesh", "mjcf") if kind in values), None)
    shape = values.get("shape", named)
    if shape is None:
        raise OptionError(f"{where}.shape", None, f"one of {', '.join(SHAPES)}, or a file with mesh or mjcf")
    if any((shape == kind) != (kind in values) for kind in ("mesh", "mjcf")):
        raise OptionError(f"{where}.shape", shape, "mesh or mjcf with the key of this name, another shape without both")
    color = values.get("color")
    adjectives = values.get("adjectives", (color,) if isinstance(color, str) else ())
    thing = OwnObject(
        name=values["name"],
        shape=shape,
        size=values.get("size", ()),
        rotation=_quaternion(values.get("rotation", (0.0, 0.0, 0.0))),
        mass=1.0,
        friction=values.get("friction", 0.8),
        color=_color(color) or _GREY,
        nouns=values.get("nouns", (values["name"],)),
        adjectives=adjectives,
    )
    if shape == "mjcf":
        return _with_body(where, folder, thing, values)
    thing = _with_mesh(where, folder, thing, values) if shape == "mesh" else _with_size(where, thing, values)
    mass = float(np.clip(_DENSITY * solid_volume(thing), *_MASS))
    return at_rest(replace(thing, mass=values.get("mass", mass)))[0]


def _with_size(where: str, thing: OwnObject, values: Mapping[str, Any]) -> OwnObject:
    for key in ("scale", "collision", "texture"):
        if key in values:
            raise OptionError(f"{where}.{key}", values[key], "only with mesh")
    size = thing.size
    if len(size) != SHAPES[thing.shape] or (thing.shape == "capsule" and size[1] <= size[0]):
        raise OptionError(f"{where}.size", list(size) or None, f"{_SIZES[thing.shape]} of a {thing.shape} in m")
    return thing


def _with_body(where: str, folder: Path, thing: OwnObject, values: Mapping[str, Any]) -> OwnObject:
    for key in ("size", "scale", "collision", "texture", "mass", "friction"):
        if key in values:
            shown = values[key] if isinstance(values[key], str | float) else list(values[key])
            raise OptionError(f"{where}.{key}", shown, "only without mjcf, which has its own")
    text, files = read_mjcf(f"{where}.mjcf", folder, values["mjcf"])
    mass = float(rigid_body(text, files)[0].compile().body_mass.sum())
    return at_rest(replace(thing, mass=mass, mjcf=text, files=files))[0]


def _with_mesh(where: str, folder: Path, thing: OwnObject, values: Mapping[str, Any]) -> OwnObject:
    if "size" in values:
        raise OptionError(f"{where}.size", list(values["size"]), "only without mesh, which has scale")
    surface, inside = read_mesh(f"{where}.mesh", folder, values["mesh"], values.get("scale", 1.0))
    parts = convex_parts(surface, values.get("collision", "auto"))
    if not parts:
        raise OptionError(f"{where}.mesh", values["mesh"], "a mesh that is thicker than 0.3 mm")
    texture, color = None, thing.color
    if "texture" in values:
        if surface.uv is None:
            raise OptionError(f"{where}.texture", values["texture"], "only for a mesh with texture coordinates")
        texture = read_picture(f"{where}.texture", folder, values["texture"])
    elif "color" not in values:
        texture = inside
    if texture is not None and "color" not in values:
        color = (1.0, 1.0, 1.0)
    return replace(thing, surface=surface, parts=parts, texture=texture, color=color)


def _quaternion(degrees: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Return the quaternion of turns about x, then y, then z of the table."""
    result: Array = np.array([1.0, 0.0, 0.0, 0.0])
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn, product = np.zeros(4), np.empty(4)
        turn[0], turn[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
        mujoco.mju_mulQuat(product, turn, result)
        result = product
    w, x, y, z = result.tolist()
    return w, x, y, z


def _check_words(name: str, objects: tuple[OwnObject, ...]) -> None:
    """Refuse objects that an instruction cannot tell apart."""
    names = [thing.name for thing in objects]
    for index, thing in enumerate(objects):
        where = f"{name}: objects[{index}]"
        if thing.name in names[:index]:
            raise OptionError(f"{where}.name", thing.name, "a name that no other object has; nouns may be the same")
        for other in objects[:index]:
            shared = [
                a
                for a in thing.phrases
                for b in other.phrases
                if _fits(a.lower(), b.lower()) or _fits(b.lower(), a.lower())
            ]
            if shared:
                allowed = f"nouns and adjectives that no other object has together, but {other.name} is so called, too"
                raise OptionError(f"{where}.nouns", shared[0], allowed)


def _fits(phrase: str, other: str) -> bool:
    """Return whether a phrase ends with all of another one, so that a sentence with it names both objects."""
    return phrase == other or phrase.endswith(f" {other}")
