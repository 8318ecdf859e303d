"""Options of both environments, checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Gripper, get_gripper
from smolvla_gym.safety.collision import Obstacles
from smolvla_gym.sim.extras import Extras
from smolvla_gym.sim.own_table import OwnTable, read_table
from smolvla_gym.sim.own_table.description import CameraPose
from smolvla_gym.sim.own_table.reader import read_camera_poses
from smolvla_gym.sim.randomization import MAX_LEVEL
from smolvla_gym.sim.rendering import QUALITIES, Quality
from smolvla_gym.sim.scene import MAX_OBJECTS, check_cameras
from smolvla_gym.sim.world import World
from smolvla_gym.tasks import REWARDS, Stage, Task, get_task
from smolvla_gym.tasks.own_table import own_task
from smolvla_gym.utils.option_values import (
    check_choice,
    check_names,
    check_number,
    check_pair,
    check_path,
    check_switch,
    plain,
)

CONTROL_HZ = (5.0, 100.0)
IMAGE_EDGE = (16, 1280)
BELT_SPEED, BELT_SPEEDS = 0.02, (0.0, 0.1)
RENDER_MODES = ("rgb_array", "human")

_GRIPPER = "ssg48"
"""Default of the environments, which a table file may replace."""

_LONGEST_S = 1e6  # s, eleven days

__all__ = [
    "CONTROL_HZ", "IMAGE_EDGE", "RENDER_MODES", "EnvOptions", "check_choice", "check_control_hz", "check_image_size",
    "check_max_episode_s",
]  # fmt: skip


@dataclass(frozen=True)
class EnvOptions:
    """Checked options that both environments have.

    Attributes:
        task: The task.
        gripper: The gripper that is mounted.
        cameras: Names of the observed cameras.
        image_size: Height and width of their images in px.
        depth: Whether the cameras measure depth.
        control_hz: Control rate in Hz.
        max_episode_s: Time limit of an episode in s, or None.
        privileged: Whether the observation has the scene's ground truth.
        randomization: 0 to 2.
        num_objects: Number of objects on the table.
        table: A table of one's own with its objects, or None.
        camera_poses: Poses of cameras by name, which replace others.
        edit_scene: Function of the caller that changes the MuJoCo scene before it is compiled, or None.
        belt_speed: Speed in m/s of the belt of a task that has one.
        reward: ``"dense"`` or ``"sparse"``.
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        quality: Rendering quality of the observed images.
    """

    task: Task
    gripper: Gripper
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    depth: bool
    control_hz: float
    max_episode_s: float | None
    privileged: bool
    randomization: int
    num_objects: int
    table: OwnTable | None
    camera_poses: Mapping[str, CameraPose]
    edit_scene: Callable[[Any], None] | None
    belt_speed: float
    reward: str
    render_mode: str | None
    quality: Quality

    @property
    def period(self) -> float:
        """Duration of a control step in s."""
        return 1.0 / self.control_hz

    def stage(self, world: World) -> Stage:
        """Set the task up in a world."""
        return Stage(
            world, self.task, control_hz=self.control_hz, randomization=self.randomization,
            num_objects=self.num_objects, reward=self.reward,
        )  # fmt: skip

    @property
    def extras(self) -> Extras:
        """Extras that the scene needs."""
        belt_speed = self.belt_speed if self.task.has_belt else None
        return Extras(
            belt_speed=belt_speed, varied=self.randomization >= 2, table=self.table, camera_poses=self.camera_poses,
            edit=self.edit_scene,
        )  # fmt: skip

    @property
    def scene_objects(self) -> int:
        """Number of objects of the scene, on the table or parked, which privileged observations have."""
        return self.num_objects if self.table is None else len(self.table.objects)

    @property
    def obstacles(self) -> Obstacles:
        """What the safety gate keeps the arm out of, besides the arm itself and the plane on which it stands."""
        return Obstacles() if self.table is None else Obstacles.of_table(self.table)

    @classmethod
    def check(cls, given: Mapping[str, Any], more_cameras: Collection[str] = ()) -> EnvOptions:
        """Check the options of ``gym.make``.

        Args:
            given: Their values by name; options of one environment alone are ignored.
            more_cameras: Names of cameras beside those of the simulation.

        Raises:
            UnknownNameError: No task, camera or gripper has this name.
            OptionError: Another option has a value that is not allowed.
        """
        table = check_table(given.get("table"))
        gripper = given["gripper"]
        if table is not None and table.gripper is not None:
            if gripper not in (_GRIPPER, table.gripper):
                raise OptionError("gripper", gripper, f"{table.gripper!r}, which the table file names")
            gripper = table.gripper
        return cls(
            task=get_task(given["task"]) if table is None else own_task(given["task"], table),
            gripper=get_gripper(gripper),
            cameras=check_camera_names(given["cameras"], more_cameras),
            image_size=check_image_size(given["image_size"]),
            control_hz=check_control_hz(given["control_hz"]),
            max_episode_s=check_max_episode_s(given["max_episode_s"]),
            privileged=check_switch("privileged", given["privileged"]),
            depth=check_switch("depth", given["depth"]),
            randomization=check_choice("randomization", given["randomization"], range(MAX_LEVEL + 1)),
            num_objects=check_num_objects(given["num_objects"], table),
            table=table,
            camera_poses=check_camera_poses(given.get("camera_poses")),
            edit_scene=check_edit(given.get("edit_scene")),
            belt_speed=check_belt_speed(given.get("belt_speed", BELT_SPEED)),  # backends of others may not have it
            reward=check_choice("reward", given["reward"], REWARDS),
            render_mode=check_choice("render_mode", given["render_mode"], (None, *RENDER_MODES)),
            quality=QUALITIES[check_choice("render_quality", given["render_quality"], tuple(QUALITIES))],
        )


def check_camera_names(value: object, more: Collection[str] = ()) -> tuple[str, ...]:
    """Return names of cameras as a tuple, each once; there may be none.

    Args:
        value: The names, in a list, a tuple or an array.
        more: Names beside those of the simulation's cameras.

    Raises:
        UnknownNameError: There is no camera of a name.
    """
    names = check_names(value)
    if more and isinstance(names, tuple):
        check_cameras(tuple(name for name in names if name not in more))
        return tuple(dict.fromkeys(names))
    return check_cameras(names)


def check_belt_speed(value: object) -> float:
    """Return a speed of the belt in m/s.

    Raises:
        OptionError: It is not a number in 0..0.1.
    """
    low, high = BELT_SPEEDS
    return check_number("belt_speed", value, f"a number from {low:g} to {high:g}, in m/s", low=low, high=high)


def check_table(value: object) -> OwnTable | None:
    """Return a table of one's own, read from its file, or None.

    Raises:
        OptionError: The file is missing or broken, or has a value that is not allowed.
        UnknownNameError: The file has an unknown key.
        MissingExtraError: A mesh needs the packages of the extra ``table``.
    """
    if value is None or isinstance(value, OwnTable):
        return value
    return read_table(check_path("table", value, "the name of a table file, such as 'table.toml', or None"))


def check_num_objects(value: object, table: OwnTable | None) -> int:
    """Return the number of objects on the table; None stands for 2, or for all of a table of one's own.

    Raises:
        OptionError: The value is not allowed.
    """
    most = MAX_OBJECTS if table is None else len(table.objects)
    least = 2 if table is None else 1
    return int(check_choice("num_objects", (most if table else 2) if value is None else value, range(least, most + 1)))


def check_camera_poses(value: object) -> dict[str, CameraPose]:
    """Return poses of cameras by name; None gives none.

    Raises:
        OptionError: A value is not allowed.
        UnknownNameError: There is no camera or key of this name.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError("camera_poses", value, "a dictionary of cameras, each with position, target and the like")
    poses = {
        camera: {key: _as_list(entry) for key, entry in pose.items()} if isinstance(pose, Mapping) else pose
        for camera, pose in value.items()
    }
    return read_camera_poses("camera_poses", poses)


def check_edit(value: object) -> Callable[[Any], None] | None:
    """Return a function that changes a scene, or None.

    Raises:
        OptionError: It is no function: a text names none, so that no file can bring one.
    """
    if value is not None and not callable(value):
        raise OptionError("edit_scene", value, "a function that takes a mujoco.MjSpec, or None")
    return value


def _as_list(value: object) -> object:
    parts = value.tolist() if isinstance(value, np.ndarray) else value
    return [plain(part) for part in parts] if isinstance(parts, list | tuple) else plain(parts)


def check_control_hz(value: object) -> float:
    """Return a control rate in Hz.

    Raises:
        OptionError: It is not a number in 5..100.
    """
    low, high = CONTROL_HZ
    return check_number("control_hz", value, f"a number from {low:g} to {high:g}, in Hz", low=low, high=high)


def check_image_size(value: object) -> tuple[int, int]:
    """Return height and width in px.

    Raises:
        OptionError: They are not two whole numbers in 16..1280.
    """
    low, high = IMAGE_EDGE
    allowed = f"(height, width) in px, each a whole number from {low} to {high}"
    return check_pair("image_size", value, allowed, low=low, high=high)


def check_max_episode_s(value: object) -> float | None:
    """Return the time limit of an episode in s, or None for no limit.

    Raises:
        OptionError: It is neither a number above 0 nor None.
    """
    if value is None:
        return None
    return check_number(
        "max_episode_s", value, f"seconds above 0 and up to {_LONGEST_S:g}, or None for no limit", above=0.0,
        high=_LONGEST_S,
    )  # fmt: skip
