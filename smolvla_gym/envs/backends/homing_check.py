"""Collision check of the board's homing search, in which the board moves the arm without the safety gate.

The search is known from the firmware: J1 to J3 run onto their switches together, then J4, J6 and J5. From a known pose
its whole motion is known. From HOME, where each homing ends, and from STANDBY it causes no contact with either gripper.
From the start pose of an episode, with the fingers down, it folds the gripper into the base. Both are computed from
:mod:`smolvla_gym.twin.homing`, which follows the firmware's source, and confirmed in the physics of the twin.
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
"""Poses in rad, shape (6,) each, to begin a homing at; the first one that the arm can drive to is used."""

_STEP: Final = 0.02  # s between two checked poses; 0.3 deg of J5, 1 mm at the fingertips
_LIMIT: Final = 60.0
"""Duration of a search in s that finds its switches: 53 s from the most awkward pose."""

_NEVER: Final = "joint_1 and the end of its turn, beyond its switch"


def homing_contact(joints: Array, opening: float, guard: Guard, gripper: str) -> str | None:
    """Return the first contact of a homing search that starts at a pose.

    The border of the workspace does not count: it is a limit for tasks, and the board does not know it.

    Args:
        joints: Joint angles in rad at its beginning, shape (6,).
        opening: Opening of the gripper during the search, 0..1.
        guard: Collision check.
        gripper: Name of the gripper; the firmware moves J5 differently with each.

    Returns:
        The pair that comes into contact first; None without a contact.
    """
    motors = Motors(np.asarray(joints) * STEPS_PER_RAD)
    search = Homing(motors, J5_MOVE_SSG48 if gripper == "ssg48" else J5_MOVE)
    search.start()
    straight, time = np.zeros_like(JOINT_UPPER), 0.0
    while True:
        for violation in guard.violations((motors.position / STEPS_PER_RAD).tolist(), opening):
            if violation.rule == "collision":
                return violation.where
        if not search.running:
            return None
        if time > _LIMIT:
            return _NEVER
        search.advance(_STEP, straight)
        time += _STEP
