"""Description of a table: plain values, which a scene is compiled from. It can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smolvla_gym.parol6 import Array

MAX_OWN_OBJECTS: Final = 16
"""Most objects of a table."""

MAX_OBSTACLES: Final = 32
"""Most obstacles of a table."""

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, eq=False)
class Triangles:
    """Surface of triangles.

    Attributes:
        vertices: In m, shape (n, 3).
        faces: Three vertices each, shape (m, 3).
        uv: Texture coordinates of the vertices, shape (n, 2), or None.
    """

    vertices: Array
    faces: NDArray[np.int32]
    uv: Array | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """Image for a texture: RGB, uint8, shape (H, W, 3)."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class OwnObject:
    """Object of a table.

    Attributes:
        name: Its name in the file.
        shape: ``"box"``, ``"cylinder"``, ``"sphere"``, ``"capsule"``, ``"mesh"`` or ``"mjcf"``.
        size: Its size in m: edges of a box; diameter and height of a cylinder; diameter of a sphere; diameter and
            whole length of a capsule. Empty for a mesh.
        rotation: Orientation in which it is put down, a quaternion w, x, y, z, shape (4,).
        mass: In kg.
        friction: Coefficient of sliding friction.
        color: Red, green and blue, 0..1.
        texture: Texture of a mesh, or None.
        nouns: What an instruction may call it.
        adjectives: Words of which an instruction puts one before the noun.
        surface: The visible surface of a mesh in m, about its own middle.
        parts: Convex parts of a mesh, which collide.
        mjcf: Text of an MJCF file, empty for other shapes.
        files: Content of its mesh files by name.
        frame: Position in m, shape (3,), and orientation, shape (4,), of its shapes in its body: that at rest.
        half_height: Half of the height at rest in m. The middle of the body is at this height.
        radius: Largest horizontal distance in m of the object from the middle of the body.
        flat_top: Smaller edge in m of the flat part of its upper side at rest, around its middle; 0: there is none.
        flat_base: The same of its lower side.
    """

    name: str
    shape: str
    size: tuple[float, ...]
    rotation: tuple[float, float, float, float]
    mass: float
    friction: float
    color: tuple[float, float, float]
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    texture: Picture | None = None
    surface: Triangles | None = None
    parts: tuple[Triangles, ...] = ()
    mjcf: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    frame: tuple[Array, Array] = field(default_factory=lambda: (np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])))
    half_height: float = 0.0
    radius: float = 0.0
    flat_top: float = 0.0
    flat_base: float = 0.0

    @property
    def phrases(self) -> tuple[str, ...]:
        """What an instruction may call it: each noun, with each adjective before it."""
        heads = [f"{adjective} " for adjective in self.adjectives] or [""]
        return tuple(head + noun for noun in self.nouns for head in heads)


@dataclass(frozen=True)
class Obstacle:
    """Box that the safety gate keeps the arm out of.

    Attributes:
        name: Its name in messages.
        corners: Lowest and highest corner in m, in the frame of the arm's base.
        color: Red, green and blue, 0..1.
    """

    name: str
    corners: Box
    color: tuple[float, float, float]


@dataclass(frozen=True)
class CameraPose:
    """Pose and field of view of a camera.

    Attributes:
        position: In m, of the scene camera in the frame of the arm's base, of the wrist camera in that of its mount;
            None keeps it.
        rotation: Quaternion w, x, y, z of a camera that looks along its -z, with +y up in the image; None keeps it.
        fovy: Vertical field of view in degrees; None keeps it. Only of the scene camera.
        parent: Frame of the wrist camera's pose: ``"mount"``, or ``"tool"`` for that of the tool centre point.
    """

    position: tuple[float, float, float] | None = None
    rotation: tuple[float, float, float, float] | None = None
    fovy: float | None = None
    parent: str = "mount"


@dataclass(frozen=True, eq=False)
class OwnTable:
    """Table of one's own.

    Attributes:
        source: The file.
        center: Centre of the top, x and y in m.
        size: Edges of the top along x and y in m.
        height: Height of the top above the foot of the arm in m, 0 or above.
        color: Red, green and blue, 0..1; None: that of the package's own table.
        texture: Name of one of the package's textures, or an image; None: plain.
        area: Lowest and highest x and y in m of the centres of objects; None: where the gripper reaches.
        obstacles: Boxes that the safety gate keeps the arm out of.
        cameras: Poses by the camera's name.
        gripper: Name of the gripper, or None.
        objects: The objects.
    """

    source: str
    center: tuple[float, float]
    size: tuple[float, float]
    height: float
    color: tuple[float, float, float] | None
    texture: str | Picture | None
    area: tuple[tuple[float, float], tuple[float, float]] | None
    obstacles: tuple[Obstacle, ...]
    cameras: Mapping[str, CameraPose]
    gripper: str | None
    objects: tuple[OwnObject, ...]
