"""Options of ``env.reset``, checked in one place for every backend before anything moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import OptionError, UnknownNameError
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_UPPER, NUM_JOINTS, STEPS_PER_RAD, Array, Gripper
from smolvla_gym.sim.world import start_pose
from smolvla_gym.utils.option_values import check_sentence, check_switch

ARM_OPTIONS: Final = ("joints", "opening", "home", "instruction")
"""Reset options of every backend."""

SCENE_OPTIONS: Final = (*ARM_OPTIONS, "target", "instruction_template")
"""Reset options with a simulated scene: of the simulation and the twin."""

STANDS: Final = 0.01
"""Largest distance in rad of a joint of an arm that counts as at its start pose."""


@dataclass(frozen=True)
class ResetOptions:
    """Checked options of ``env.reset``.

    Attributes:
        joints: Joint angles in rad at which the episode begins, shape (6,), within the soft limits.
        opening: Opening of the gripper there, 0 closed to 1 open.
        home: Whether the arm is homed first, also if it knows its joint angles. A simulated arm always knows them.
        instruction: Instruction of the episode; None takes the task's own. A simulated scene has the objects that it
            names.
        target: Colour of the object that the instruction names; None draws it.
        instruction_template: Instruction template; None draws it.
        chosen: Whether the caller chose the start pose.
    """

    joints: Array
    opening: float
    home: bool = False
    instruction: str | None = None
    target: str | None = None
    instruction_template: str | None = None
    chosen: bool = False

    @classmethod
    def check(cls, given: object, gripper: Gripper, known: Iterable[str] = SCENE_OPTIONS) -> ResetOptions:
        """Check the options of ``env.reset``.

        Args:
            given: The options, or None.
            gripper: The gripper that is mounted.
            known: Names of the options that the backend has.

        Raises:
            UnknownNameError: The backend has no such option.
            OptionError: A value is not allowed.
        """
        known = tuple(known)
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            raise OptionError("options", given, "a dictionary with some of the keys " + ", ".join(map(repr, known)))
        for name in given:
            if name not in known:
                raise UnknownNameError("reset option", name, known)
        if "instruction" in given and ("target" in given or "instruction_template" in given):
            allowed = "without target and instruction_template, which make an instruction themselves"
            raise OptionError('options["instruction"]', given["instruction"], allowed)
        joints, opening = _start(given, gripper)
        if "instruction" in given and given["instruction"] is None:
            raise OptionError('options["instruction"]', None, "a sentence; leave it out for the task's own")
        return cls(
            joints=joints,
            opening=opening,
            home=check_switch('options["home"]', given.get("home", False)),
            instruction=_text(given, "instruction", "a sentence in one line, of up to 1000 characters"),
            target=_text(given, "target", "the name of a colour on the table"),
            instruction_template=_text(given, "instruction_template", "a sentence in one line with the field {color}"),
            chosen="joints" in given or "opening" in given,
        )


def _text(given: Mapping[Any, Any], name: str, allowed: str) -> str | None:
    value = given.get(name)
    return None if value is None else check_sentence(f'options["{name}"]', value, allowed)


def _start(given: Mapping[Any, Any], gripper: Gripper) -> tuple[Array, float]:
    """Return joint angles in rad, shape (6,), and opening at which an episode begins.

    Raises:
        OptionError: A value is not allowed.
    """
    joints = _numbers(given.get("joints", start_pose(gripper)))
    opening = _numbers(given.get("opening", 1.0))
    # A pose that was read back is rounded to float32 and to whole microsteps.
    slack = 1.0 / STEPS_PER_RAD
    if joints.shape != (NUM_JOINTS,) or not np.all((joints >= JOINT_LOWER - slack) & (joints <= JOINT_UPPER + slack)):
        raise OptionError('options["joints"]', given["joints"], "six angles in rad within the soft limits")
    if opening.shape != () or not 0.0 <= opening <= 1.0:
        raise OptionError('options["opening"]', given["opening"], "0 (closed) to 1 (open)")
    return np.clip(joints, JOINT_LOWER, JOINT_UPPER), float(opening)


def _numbers(value: object) -> Array:
    """Return real numbers as an array, and a single NaN for strings, booleans, complex numbers and the like."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return np.array(np.nan)
    return array.astype(np.float64) if array.dtype.kind in "fiu" else np.array(np.nan)
