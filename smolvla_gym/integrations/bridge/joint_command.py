"""Joint commands: a ``sensor_msgs/JointState`` with targets of single joints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from smolvla_gym.errors import ActionError
from smolvla_gym.integrations.bridge.topics import GRIPPER, JAWS
from smolvla_gym.parol6 import JOINT_LOWER, JOINT_NAMES, JOINT_UPPER, NUM_JOINTS, STEPS_PER_RAD

SLACK: Final = 2.0 / STEPS_PER_RAD
"""Distance in rad that a target may lie outside a joint's limits: measured angles are rounded to whole motor steps."""


_SAME: Final = 0.02
"""Largest difference of two openings of the gripper, 0 to 1, in one command: the jaws are measured separately."""


def read_joint_command(message: Mapping[str, Any], stroke: float) -> dict[int, float]:
    """Return the elements of an action that a message names, by their index.

    Args:
        message: Message with joints in rad, jaws in m, or ``gripper`` as an opening of 0 to 1.
        stroke: Travel of a jaw in m.

    Raises:
        ActionError: A joint is unknown or named twice, or its target is outside its limits. The message names it.
    """
    names, positions = list(message["name"]), [float(position) for position in message["position"]]
    known = {joint: (low, high) for joint, low, high in zip(JOINT_NAMES, JOINT_LOWER, JOINT_UPPER, strict=True)}
    known |= {GRIPPER: (0.0, 1.0), **dict.fromkeys(JAWS, (0.0, stroke))}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ActionError(f"no joint is called {', '.join(unknown) or '(none given)'}; there are {', '.join(known)}")
    if len(names) != len(positions) or len(set(names)) != len(names):
        raise ActionError(f"{len(names)} names and {len(positions)} positions; one of each joint is wanted")
    if not np.isfinite(positions).all():
        raise ActionError(f"positions that are not finite: {positions}")
    for name, position in zip(names, positions, strict=True):
        low, high = known[name]
        slack = float(SLACK.max()) if name in JOINT_NAMES else 0.01 * high
        if not low - slack <= position <= high + slack:
            raise ActionError(
                f"{name} cannot go to {position:g}; from {low:.4f} to {high:.4f} it can (rad, or m of a jaw)"
            )
    elements: dict[int, float] = {}
    for name, position in zip(names, positions, strict=True):
        index, value = _element(name, position, stroke)
        if abs(elements.setdefault(index, value) - value) > _SAME:
            raise ActionError(f"two openings of the gripper: {elements[index]:.3f} and {value:.3f} (0 to 1)")
    return elements


def _element(name: str, position: float, stroke: float) -> tuple[int, float]:
    if name in JOINT_NAMES:
        return JOINT_NAMES.index(name), position
    return NUM_JOINTS, position if name == GRIPPER else position / stroke
