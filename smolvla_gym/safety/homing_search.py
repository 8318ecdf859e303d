"""What the board's homing search touches, which no gate watches: the board moves the arm by itself.

The search is known from the firmware: J1 to J3 run onto their switches together, then J4, J6 and J5. From a known pose
its whole way is known too. From HOME, where each homing ends, and from STANDBY it touches nothing with either gripper;
from the start pose of an episode, with the fingers down, it folds the gripper into the base (computed from
:mod:`smolvla_gym.twin.homing`, which follows the firmware's source, and seen in the physics of the twin).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from smolvla_gym.parol6 import HOME, JOINT_UPPER, STANDBY, STEPS_PER_RAD, Array
from smolvla_gym.safety.gate import Guard
from smolvla_gym.twin.homing import J5_MOVE, J5_MOVE_SSG48, Homing
from smolvla_gym.twin.motors import Motors

_LEANED: Final = np.array([0.0, -0.2, 0.0, 0.0, 0.0, 0.0])

SAFE_POSES: Final[tuple[Array, ...]] = (HOME, STANDBY, HOME + _LEANED, STANDBY + _LEANED)
"""Poses in rad, shape (6,) each, to begin a homing at: the first one that the arm can drive to is taken."""

_STEP: Final = 0.02  # s between two poses that are looked at; 0.3 deg of J5, 1 mm at the fingertips
_LIMIT: Final = 60.0
"""Duration of a search in s that finds its switches: 53 s from the most awkward pose."""

_BORDER: Final = "workspace"
_NEVER: Final = "joint_1 and the end of its turn, beyond its switch"


def homing_contact(joints: Array, opening: float, guard: Guard, gripper: str) -> str | None:
    """Follow the search from a pose and look what touches on its way.

    The border of the workspace does not count: it is the owner's wish for tasks, and the search does not know of it.

    Args:
        joints: Joint angles in rad at its beginning, shape (6,).
        opening: Opening of the gripper meanwhile, 0..1.
        guard: Knows what touches.
        gripper: Name of the gripper, by which the firmware's way of J5 differs.

    Returns:
        What touches first; None where nothing does.
    """
    motors = Motors(np.asarray(joints) * STEPS_PER_RAD)
    search = Homing(motors, J5_MOVE_SSG48 if gripper == "ssg48" else J5_MOVE)
    search.start()
    straight, time = np.zeros_like(JOINT_UPPER), 0.0
    while True:
        touched = guard.touched((motors.position / STEPS_PER_RAD).tolist(), opening)
        for what in touched:
            if _BORDER not in what:
                return what
        if not search.running:
            return None
        if time > _LIMIT:
            return _NEVER
        search.advance(_STEP, straight)
        time += _STEP
