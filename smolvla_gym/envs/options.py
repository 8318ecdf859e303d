"""Checks of the options of ``gym.make``, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smolvla_gym.errors import OptionError
from smolvla_gym.parol6 import Gripper, get_gripper
from smolvla_gym.sim.randomization import MAX_LEVEL
from smolvla_gym.sim.rendering import QUALITIES, Quality
from smolvla_gym.sim.scene import MAX_OBJECTS, check_cameras
from smolvla_gym.tasks import REWARDS, Task, get_task

CONTROL_HZ = (5.0, 100.0)
IMAGE_EDGE = (16, 1280)
RENDER_MODES = ("rgb_array", "human")


@dataclass(frozen=True)
class EnvOptions:
    """The options that both ids have, checked.

    Attributes:
        task: What is to be done.
        gripper: The gripper that is mounted.
        cameras: Names of the observed cameras.
        image_size: Height and width of their pictures in px.
        depth: Whether they measure depth.
        control_hz: Control steps a second.
        randomization: 0 to 2.
        num_objects: How many objects lie on the table.
        reward: ``"dense"`` or ``"sparse"``.
        render_mode: None, ``"rgb_array"`` or ``"human"``.
        quality: Rendering quality of the observed pictures.
    """

    task: Task
    gripper: Gripper
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    depth: bool
    control_hz: float
    randomization: int
    num_objects: int
    reward: str
    render_mode: str | None
    quality: Quality

    @classmethod
    def check(cls, given: Mapping[str, Any]) -> EnvOptions:
        """Checks what ``gym.make`` was given, by name; what only one of the ids has is left alone.

        Raises:
            UnknownNameError: No task, camera or gripper has this name.
            OptionError: Another option has a value that is not allowed.
        """
        return cls(
            task=get_task(given["task"]),
            gripper=get_gripper(given["gripper"]),
            cameras=check_cameras(given["cameras"]),
            image_size=check_image_size(given["image_size"]),
            control_hz=check_control_hz(given["control_hz"]),
            depth=check_switch("depth", given["depth"]),
            randomization=check_choice("randomization", given["randomization"], range(MAX_LEVEL + 1)),
            num_objects=check_choice("num_objects", given["num_objects"], range(2, MAX_OBJECTS + 1)),
            reward=check_choice("reward", given["reward"], REWARDS),
            render_mode=check_choice("render_mode", given["render_mode"], (None, *RENDER_MODES)),
            quality=QUALITIES[check_choice("render_quality", given["render_quality"], tuple(QUALITIES))],
        )


def check_switch(option: str, value: Any) -> bool:
    """Returns a value that is True or False.

    Raises:
        OptionError: It is neither.
    """
    if not isinstance(value, bool):
        raise OptionError(option, value, "True or False")
    return value


def check_choice(option: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Returns a value that is one of those allowed.

    Raises:
        OptionError: It is none of them.
    """
    # A bool equals 0 or 1, yet nobody who writes randomization=True knows which level that is.
    if isinstance(value, bool) or value not in allowed:
        raise OptionError(option, value, "one of " + ", ".join(repr(a) for a in allowed))
    return value


def check_keys(option: str, given: Any, known: Iterable[str]) -> dict[str, Any]:
    """Returns options that are handed on to a part which knows them.

    Raises:
        OptionError: They are no mapping, or a name is none that the part knows.
    """
    known = tuple(known)
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise OptionError(option, given, "a dictionary with some of the keys " + ", ".join(map(repr, known)))
    return dict(given)


def check_control_hz(value: Any) -> float:
    """Returns a control rate in Hz.

    Raises:
        OptionError: It is no number in 5..100.
    """
    low, high = CONTROL_HZ
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError("control_hz", value, f"a number from {low:g} to {high:g}")
    if not low <= value <= high:
        raise OptionError("control_hz", value, f"{low:g} to {high:g}")
    return float(value)


def check_image_size(value: Any) -> tuple[int, int]:
    """Returns height and width in px.

    Raises:
        OptionError: They are not two whole numbers in 16..1280.
    """
    low, high = IMAGE_EDGE
    allowed = f"(height, width) in px, each from {low} to {high}"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise OptionError("image_size", value, allowed)
    if any(isinstance(v, bool) or not isinstance(v, int) or not low <= v <= high for v in value):
        raise OptionError("image_size", value, allowed)
    return value[0], value[1]
