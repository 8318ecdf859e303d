"""Flat plate with an image on the table, such as a printed board for calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import Array

PLATE: Final = "plate"
"""Name of the plate's body, geom, texture and material."""


@dataclass(frozen=True)
class Plate:
    """Plate with an image. It has no contacts.

    Attributes:
        png: The image, a PNG file.
        size: Width and height in m.
        position: Middle of the plate in the world in m.
        yaw: Direction in rad about the vertical of the image's left to right edge from the world's x axis.
    """

    png: bytes
    size: tuple[float, float]
    position: tuple[float, float, float]
    yaw: float = 0.0

    @property
    def rotation(self) -> Array:
        """Rotation from the plate's frame, x to the image's right and z up, to the world, shape (3, 3)."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def add_plate(spec: mujoco.MjSpec, plate: Plate) -> None:
    """Add a plate to a scene."""
    spec.assets = {**spec.assets, f"{PLATE}.png": plate.png}
    spec.add_texture(name=PLATE, type=mujoco.mjtTexture.mjTEXTURE_2D, file=f"{PLATE}.png")
    material = spec.add_material(name=PLATE, specular=0.0, texrepeat=[1, 1])
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = PLATE
    half = plate.yaw / 2
    body = spec.worldbody.add_body(name=PLATE, pos=plate.position, quat=[np.cos(half), 0.0, 0.0, np.sin(half)])
    body.add_geom(
        name=PLATE, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[plate.size[0] / 2, plate.size[1] / 2, 0.001],
        material=PLATE, contype=0, conaffinity=0, group=2,
    )  # fmt: skip
