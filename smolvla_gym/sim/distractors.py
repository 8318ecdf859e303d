"""Distractors: MuJoCo bodies of other shapes beside the objects, which no instruction names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import Array

DISTRACTORS: Final = ("ball", "stick", "can", "cone")
"""Names of the distractors and of their bodies."""

# Not the colours of the objects: an instruction must not fit a distractor. None is as bright as the white marks.
_DISTRACTOR_COLORS: Final = np.array(
    [(0.42, 0.14, 0.52), (0.08, 0.55, 0.60), (0.80, 0.38, 0.55), (0.33, 0.20, 0.11), (0.10, 0.10, 0.11), (0.45,) * 3]
)

_DENSITY: Final = 500.0  # kg/m^3
_CLEARANCE: Final = 0.085
"""Least distance in m of a distractor's centre from an object's or a mark's."""

_WAY_CLEARANCE: Final = 0.075
"""The same from the line along which an object has to go, along which the tool goes, too."""

_AREA: Final = ((0.12, 0.40), (-0.20, 0.20))
_MOST: Final = 2
_TRIES: Final = 30

_HALF_HEIGHT: Final = {"ball": 0.013, "stick": 0.006, "can": 0.014, "cone": 0.014}


@dataclass(frozen=True)
class Distractor:
    """Place of a distractor in an episode.

    Attributes:
        name: One of ``DISTRACTORS``.
        position: Its centre in m, shape (3,).
        yaw: Turn about the vertical in rad.
        color: Red, green and blue, 0..1, shape (3,).
    """

    name: str
    position: Array
    yaw: float
    color: Array


def add_distractors(spec: mujoco.MjSpec) -> None:
    """Add all distractors to a scene, parked on the floor."""
    for name in DISTRACTORS:
        _add_distractor(spec, name)


def _add_distractor(spec: mujoco.MjSpec, name: str) -> None:
    body = spec.worldbody.add_body(name=name, pos=_parking(name))
    body.add_freejoint(name=name)
    kinds = mujoco.mjtGeom
    gray = [0.5, 0.5, 0.5, 1]
    match name:
        case "ball":  # drawn as a mesh: MuJoCo's own spheres are as coarse as its cylinders may be
            mesh = spec.add_mesh(name=name)
            mesh.make_sphere(2)
            mesh.scale = [0.013] * 3
            body.add_geom(name=name, type=kinds.mjGEOM_MESH, meshname=name, rgba=gray, mass=0, contype=0, conaffinity=0,
                          group=2)  # fmt: skip
            geom = body.add_geom(type=kinds.mjGEOM_SPHERE, size=[0.013, 0, 0], group=3)
        case "stick":
            geom = body.add_geom(name=name, type=kinds.mjGEOM_BOX, size=[0.030, 0.007, 0.006], rgba=gray, group=2)
        case "can":
            geom = body.add_geom(name=name, type=kinds.mjGEOM_CYLINDER, size=[0.011, 0.014, 0], rgba=gray, group=2)
        case _:
            mesh = spec.add_mesh(name=name)
            mesh.make_cone(12, 0.014)
            mesh.scale = [0.014] * 3
            geom = body.add_geom(name=name, type=kinds.mjGEOM_MESH, meshname=name, rgba=gray, group=2)
    # It must not roll away when it is touched.
    geom.density, geom.condim, geom.friction = _DENSITY, 6, [0.8, 0.01, 0.001]


def draw_distractors(
    rng: np.random.Generator,
    places: Array,
    way: tuple[Array, Array] | None,
    radii: Array | float = 0.0,
    height: float = 0.0,
    allowed: Callable[[str, Array], bool] | None = None,
) -> list[Distractor]:
    """Draw up to two distractors, clear of the objects and of the way on which an object has to go.

    Args:
        rng: Random generator.
        places: Centres of the objects and marks in m, shape (n, 2).
        way: Both ends of the way in m, each of shape (2,), or None.
        radii: Distance in m by which each place needs more clearance, shape (n,), or the same for all.
        height: Height of the table's top in m.
        allowed: Returns whether a distractor may stand at a place in m, shape (2,); None: at all of them.
    """
    room = np.broadcast_to(radii, len(places))
    chosen: list[Distractor] = []
    (x0, x1), (y0, y1) = _AREA
    for name in rng.permutation(DISTRACTORS)[: int(rng.integers(_MOST + 1))]:
        yaw = float(rng.uniform(-np.pi, np.pi))
        color = rng.choice(_DISTRACTOR_COLORS) * rng.uniform(0.8, 1.2)
        for place in rng.uniform((x0, y0), (x1, y1), (_TRIES, 2)):
            others = np.array([*places, *(other.position[:2] for other in chosen)])
            gaps = np.linalg.norm(others - place, axis=1)
            gaps[: len(room)] -= room
            clear = gaps.min() >= _CLEARANCE and (allowed is None or allowed(str(name), place))
            if clear and (way is None or _distance(place, *way) >= _WAY_CLEARANCE):
                position = np.array([*place, height + _HALF_HEIGHT[name]])
                chosen.append(Distractor(str(name), position, yaw, np.clip(color, 0, 1)))
                break
    return chosen


def _distance(point: Array, start: Array, end: Array) -> float:
    """Return the distance in m of a point from a line between two others, shape (2,) each."""
    along = end - start
    share = float(np.clip((point - start) @ along / max(float(along @ along), 1e-9), 0.0, 1.0))
    return float(np.linalg.norm(point - start - share * along))


def _parking(name: str) -> Array:
    """Return where a distractor lies that an episode does not use, on the floor, in m, shape (3,)."""
    return np.array([-1.8, 0.3 * DISTRACTORS.index(name), -0.70 + _HALF_HEIGHT[name]])


class Distractors:
    """The distractors of a scene."""

    def __init__(self, model: mujoco.MjModel) -> None:
        """Keep a model that has them."""
        self._model = model

    def place(self, data: mujoco.MjData, chosen: Sequence[Distractor]) -> None:
        """Place the distractors of an episode and park the others.

        Args:
            data: The state; recompute what depends on it afterwards.
            chosen: The distractors to place.
        """
        for name in DISTRACTORS:
            self._pose(data, name, _parking(name), 0.0)
        for distractor in chosen:
            self._pose(data, distractor.name, distractor.position, distractor.yaw)
            self._model.geom(distractor.name).rgba[:3] = distractor.color

    def park_touching(self, data: mujoco.MjData) -> None:
        """Park those that touch anything but the table: the arm may begin anywhere."""
        pairs = self._model.geom_bodyid[data.contact.geom[: data.ncon]]
        for name in DISTRACTORS:
            body = self._model.body(name).id
            touched = pairs[(pairs == body).any(axis=1)]
            if ((touched != body) & (touched != 0)).any():
                self._pose(data, name, _parking(name), 0.0)

    def _pose(self, data: mujoco.MjData, name: str, position: Array, yaw: float) -> None:
        address = self._model.joint(name).qposadr[0]
        data.qpos[address : address + 7] = [*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
