"""Extras of a scene, besides the arm, the table and a task's objects: a belt, a plate, and what level 2 varies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import mujoco

from smolvla_gym.sim.belt import add_belt
from smolvla_gym.sim.distractors import add_distractors
from smolvla_gym.sim.own_table.description import CameraPose, OwnTable
from smolvla_gym.sim.plate import Plate, add_plate
from smolvla_gym.sim.textures import add_textures


@dataclass(frozen=True)
class Extras:
    """Extras of a scene, which it is compiled with.

    Attributes:
        belt_speed: Speed in m/s of a belt on which the objects stand; None: there is no belt.
        varied: Whether level 2 of the domain randomization finds table textures and distractors in the scene.
        plate: A plate with an image on the table; None: there is none.
        table: A table of one's own with its objects, or None.
        camera_poses: Poses of cameras by name, in place of those of the package and of the table.
        edit: Function of the caller that changes the MuJoCo scene before it is compiled, or None.
    """

    belt_speed: float | None = None
    varied: bool = False
    plate: Plate | None = None
    table: OwnTable | None = None
    camera_poses: Mapping[str, CameraPose] = field(default_factory=dict)
    edit: Callable[[mujoco.MjSpec], None] | None = None


NO_EXTRAS: Final = Extras()
"""The arm on its table, with the task's objects."""


def add_extras(spec: mujoco.MjSpec, extras: Extras, gripper: str) -> None:
    """Add extras to a scene.

    Args:
        spec: The scene.
        extras: The extras.
        gripper: Name of the gripper.
    """
    if extras.varied:
        add_textures(spec, "table")
        add_distractors(spec)
    if extras.belt_speed is not None:
        add_belt(spec, gripper)
    if extras.plate is not None:
        add_plate(spec, extras.plate)
