"""Domain randomization: appearance, friction and errors that differ from episode to episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import mujoco
import numpy as np

from smolvla_gym.parol6 import NUM_JOINTS, Array
from smolvla_gym.sim.object_size import SIZE_FIELDS
from smolvla_gym.sim.own_table.description import OwnTable
from smolvla_gym.sim.scene import COLORS, MAX_OBJECTS, object_name
from smolvla_gym.sim.textures import TEXTURES, mean_brightness

MAX_LEVEL = 2

_MAX_DELAY = 1  # control steps

_MAX_ZERO_ERROR = np.deg2rad(0.4)
"""Largest error of a joint's zero after homing: a little more than on the virtual twin, 0.3 deg."""


@dataclass(frozen=True)
class ArmVariation:
    """Variation of the arm in an episode.

    Attributes:
        delay: Delay of commands in control steps.
        zero_error: True minus reported joint angles in rad, shape (6,).
    """

    delay: int = 0
    zero_error: Array = field(default_factory=lambda: np.zeros(NUM_JOINTS))


_FIELDS: Final = (
    "geom_rgba", "mat_rgba", "geom_friction", "light_diffuse", "light_pos", "light_dir", "cam_pos", "cam_quat",
    "cam_fovy", "geom_matid", *SIZE_FIELDS,
)  # fmt: skip

_CAMERA_FIELDS: Final = ("cam_pos", "cam_quat", "cam_fovy")
"""Fields that a program may also set by hand between two episodes."""

Appearance = dict[str, Array]
"""Values in a model that the randomization changes, by name: the sizes of the objects are among them."""


def read_appearance(model: mujoco.MjModel) -> Appearance:
    """Return a copy of all values that a :class:`Randomizer` may change."""
    return {"ambient": model.vis.headlight.ambient.copy(), **{name: getattr(model, name).copy() for name in _FIELDS}}


def write_appearance(model: mujoco.MjModel, appearance: Appearance) -> None:
    """Set the values that :func:`read_appearance` returned, of this model or of another one of the same scene."""
    model.vis.headlight.ambient[:] = appearance["ambient"]
    for name in _FIELDS:
        getattr(model, name)[:] = appearance[name]


class Randomizer:
    """Randomizer of a model: it colours the objects and, at level 2, varies what differs from table to table.

    A camera that a program has moved since the last episode, by ``model.cam_pos`` and the like, stays moved: its new
    pose is the nominal one from then on.
    """

    def __init__(self, model: mujoco.MjModel, table: OwnTable | None = None) -> None:
        """Copy the values of the compiled model, from which each episode starts.

        Args:
            model: The model.
            table: The table of one's own that is in it, or None.
        """
        self._model, self._compiled, self._table = model, read_appearance(model), table
        self._textured = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL.value, f"table_{TEXTURES[0]}") >= 0
        self._cameras_left = {name: getattr(model, name).copy() for name in _CAMERA_FIELDS}

    def apply(self, rng: np.random.Generator, colors: tuple[str, ...], level: int) -> ArmVariation:
        """Randomize the model for an episode.

        Args:
            rng: Random generator.
            colors: Colour names of the objects.
            level: 0 and 1 give every colour its nominal shade and change nothing else; 2 varies everything. The table
                gets a texture if the scene was compiled with them. The sizes of the objects become nominal.

        Returns:
            Variation of the arm, which the backend applies.
        """
        model = self._model
        self._keep_moved_cameras()
        write_appearance(model, self._compiled)
        shades = [COLORS[color] for color in colors] if self._table is None else [o.color for o in self._table.objects]
        for i, nominal in enumerate(shades):
            shade = np.array(nominal)
            if level >= 2:
                shade = np.clip(shade * rng.uniform(0.8, 1.2) + rng.uniform(-0.05, 0.05, 3), 0.0, 1.0)
            model.geom(object_name(i)).rgba[:3] = shade
        if self._table is None:
            for i in range(len(colors), MAX_OBJECTS):
                model.geom(object_name(i)).rgba[3] = 0.0  # parked, and hidden
        if level < 2:
            return ArmVariation()
        variation = self._vary(rng)
        for name in _CAMERA_FIELDS:
            self._cameras_left[name] = getattr(model, name).copy()
        return variation

    def _keep_moved_cameras(self) -> None:
        """Take over the pose of a camera that somebody else than this object has changed."""
        for name, left in self._cameras_left.items():
            present = getattr(self._model, name)
            moved = (present != left).reshape(len(present), -1).any(axis=1)
            self._compiled[name][moved] = present[moved]
            self._cameras_left[name] = self._compiled[name].copy()

    def _vary(self, rng: np.random.Generator) -> ArmVariation:
        model = self._model
        self._surroundings(rng)
        self._cameras(rng)
        model.geom_friction[:, 0] *= rng.uniform(0.8, 1.25)
        delay = int(rng.integers(_MAX_DELAY + 1))
        variation = ArmVariation(delay, rng.uniform(-_MAX_ZERO_ERROR, _MAX_ZERO_ERROR, NUM_JOINTS))
        self._texture(rng)
        return variation

    def _texture(self, rng: np.random.Generator) -> None:
        """Give the table one of the textures of the scene, or none, in the colour that was drawn."""
        model, choice = self._model, int(rng.integers(-1, len(TEXTURES)))
        if choice < 0 or not self._textured:
            return
        name = TEXTURES[choice]
        material = model.material(f"table_{name}")
        material.rgba[:3] = np.minimum(model.material("table").rgba[:3] / mean_brightness(name), 1.0)
        model.geom_matid[model.geom("table_top").id] = material.id

    def _surroundings(self, rng: np.random.Generator) -> None:
        model = self._model
        table = model.material("table").rgba
        table[:3] = np.clip(table[:3] * rng.uniform(0.6, 1.25) + rng.uniform(-0.08, 0.08, 3), 0.0, 1.0)
        model.light_diffuse *= rng.uniform(0.6, 1.3) * rng.uniform(0.92, 1.08, 3)
        model.vis.headlight.ambient[:] *= rng.uniform(0.7, 1.4)
        model.light_pos += rng.uniform(-0.25, 0.25, model.light_pos.shape)
        model.light_dir += rng.uniform(-0.2, 0.2, model.light_dir.shape)

    def _cameras(self, rng: np.random.Generator) -> None:
        model = self._model
        for name, shift, turn in (("wrist", 0.002, 0.02), ("scene", 0.015, 0.03)):
            camera = model.camera(name)
            camera.pos[:] += rng.uniform(-shift, shift, 3)
            camera.quat[:] = _turned(camera.quat, rng.uniform(-turn, turn, 3))


def _turned(quaternion: Array, rotation: Array) -> Array:
    """Return a quaternion, shape (4,), turned by a rotation vector in rad, shape (3,), in its own frame."""
    delta, result = np.empty(4), np.empty(4)
    angle = float(np.linalg.norm(rotation))
    mujoco.mju_axisAngle2Quat(delta, rotation / max(angle, 1e-12), angle)
    mujoco.mju_mulQuat(result, np.array(quaternion), delta)
    return result
